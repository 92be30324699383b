package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// CompleteCommand is the command that the completion scripts call. Its arguments are the words of the command line up to the
// cursor; the last word may be empty. Each line of its output is a candidate, a tab and a description.
const CompleteCommand = "__complete"

// Shells are the shells with a completion script.
var Shells = []string{"bash", "zsh", "fish", "powershell"}

// CompletionScript returns the script for a shell. ok is false for an unknown shell.
func (p *Program) CompletionScript(shell string) (script string, ok bool) {
	script, ok = completionScripts[shell]
	return strings.ReplaceAll(script, "{program}", p.Root.Name), ok
}

// completionScripts has a script per shell. The scripts know nothing of the commands, so a new version of the program needs no new
// scripts.
var completionScripts = map[string]string{
	"bash": `# bash completion for {program}: source <({program} completion bash)
_{program}() {
  local line="${COMP_LINE:0:COMP_POINT}" words cur head IFS
  IFS=$' \t\n' read -ra words <<<"$line"
  [[ "$line" == *[[:space:]] ]] && words+=("")
  cur="${words[${#words[@]}-1]}"
  IFS=$'\n'
  COMPREPLY=($("${words[0]}" __complete "${words[@]:1}" 2>/dev/null | cut -f1))
  # readline splits words at ':' and '=': leave off what it already has.
  head="${cur%"${cur##*[:=]}"}"
  COMPREPLY=("${COMPREPLY[@]#"$head"}")
  # What ends in ':' goes on.
  [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *: ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o default -F _{program} {program}
`,
	"zsh": `#compdef {program}
_{program}() {
  local -a lines described parts
  local line
  lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  for line in $lines; do
    if [[ "${line%%$'\t'*}" == *: ]]; then
      parts+=("${line%%$'\t'*}") # goes on
    else
      described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    fi
  done
  if (( ${#described} + ${#parts} == 0 )); then
    _files
    return
  fi
  (( ${#described} )) && _describe -t {program} '{program}' described
  (( ${#parts} )) && compadd -S '' -a parts
}
if [[ "$funcstack[1]" == "_{program}" ]]; then
  _{program} "$@"
else
  compdef _{program} {program}
fi
`,
	"fish": `# fish completion for {program}
function __{program}_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
  count $found >/dev/null; and printf '%s\n' $found; or __fish_complete_path (commandline -ct)
end
complete -c {program} -f -a '(__{program}_complete)'
`,
	"powershell": `# PowerShell completion for {program}
Register-ArgumentCompleter -Native -CommandName {program} -ScriptBlock {
  param($wordToComplete, $commandAst, $cursorPosition)
  $words = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
  if ($wordToComplete -eq '') { $words += '""' }
  & $commandAst.CommandElements[0].ToString() __complete @words 2>$null | ForEach-Object {
    $value, $help = $_ -split [char]9, 2
    [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $help)
  }
}
`,
}

// Complete prints the candidates for the last of words. It never fails: with a wrong configuration it prints fewer candidates. It
// leaves out candidates that a terminal must not show.
func (p *Program) Complete(w io.Writer, words []string) {
	words = slices.Clone(words)
	for i, word := range words {
		if word == `""` { // PowerShell drops empty arguments of programs
			words[i] = ""
		}
	}
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	for _, cand := range p.candidates(words[:len(words)-1], last) {
		if strings.HasPrefix(cand.Value, last) && printable.OneLine(cand.Value+cand.Help) == cand.Value+cand.Help {
			fmt.Fprintln(w, printable.Row(cand.Value, cand.Help))
		}
	}
}

// Candidate is a possible completion of a word.
type Candidate struct{ Value, Help string }

// candidates returns the candidates for last, after the words in before.
func (p *Program) candidates(before []string, last string) []Candidate {
	cmd := p.Root
	var wants Option // an option that still needs its value
	var args []string
	for _, w := range before {
		name, value, given := strings.Cut(strings.TrimLeft(w, "-"), "=")
		switch {
		case wants != nil:
			wants.note(w)
			wants = nil
		case w == "--":
			return nil // the rest is another program's command line
		case IsOption(w):
			o := FindOption(p.reachable(cmd), name)
			switch {
			case o == nil:
			case given:
				o.note(value)
			case o.Value() != "":
				wants = o
			}
		case len(cmd.Verbs) > 0:
			if cmd = cmd.Verb(w); cmd == nil {
				return nil
			}
		default:
			args = append(args, w)
		}
	}
	switch {
	case wants != nil:
		return wants.choices() // without choices the shell completes files
	case strings.HasPrefix(last, "-"):
		return optionCandidates(p.Options(cmd))
	case len(cmd.Verbs) > 0:
		return cmd.Candidates()
	case cmd.Complete != nil:
		return cmd.Complete(args)
	}
	return nil
}

// Candidates returns the listed subcommands as candidates.
func (c *Command) Candidates() []Candidate {
	var out []Candidate
	for _, v := range c.Listed() {
		out = append(out, Candidate{v.Name, v.Summary})
	}
	return out
}

func optionCandidates(options []Option) []Candidate {
	var out []Candidate
	for _, o := range options {
		out = append(out, Candidate{dashes(o.Names()[0]), o.Meaning()})
	}
	return append(out, Candidate{"--help", "show help"})
}

// Words returns candidates without descriptions.
func Words(values ...string) []Candidate {
	var out []Candidate
	for _, v := range values {
		out = append(out, Candidate{v, ""})
	}
	return out
}
