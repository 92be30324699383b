package files

// GiveBack has nothing to do where there is no root.
func GiveBack(string) error { return nil }
