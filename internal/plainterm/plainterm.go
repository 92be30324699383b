// Package plainterm keeps Bubble Tea from asking the terminal for its background at the start of every command. Whoever imports Bubble Tea
// imports this package too.
//
// Bubble Tea's init function asks by escape sequences, and waits five seconds for a terminal that does not answer. Go initializes the
// packages that are ready in the order of their paths: this one needs Lip Gloss alone and comes before Bubble Tea.
package plainterm

import "github.com/charmbracelet/lipgloss"

func init() { lipgloss.SetHasDarkBackground(true) } // nothing later is early enough
