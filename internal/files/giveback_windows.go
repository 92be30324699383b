package files

// GiveBack does nothing: Windows lacks root.
func GiveBack(string, func(name string, text []byte) bool) error { return nil }
