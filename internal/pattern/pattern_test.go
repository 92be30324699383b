package pattern

import "testing"

func TestLazy(t *testing.T) {
	number := Lazy(`^[0-9]+$`)
	if !number().MatchString("42") || number().MatchString("x") {
		t.Error("the expression does not match as it should")
	}
	if first := number(); number() != first {
		t.Error("the expression was compiled twice")
	}
	invalid := Lazy(`(`)
	defer func() {
		if recover() == nil {
			t.Error("an invalid expression was compiled")
		}
	}()
	invalid()
}
