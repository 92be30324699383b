package files

// GiveBack has nothing to do where there is no root.
func GiveBack(string, func(name string, text []byte) bool) error { return nil }
