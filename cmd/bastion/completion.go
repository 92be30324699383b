package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// completeCommand is what the completion scripts call, with the words of the command line up to the cursor; the last word
// may be empty. Each line of the answer is a candidate, a tab and its description.
const completeCommand = "__complete"

var shells = []string{"bash", "zsh", "fish", "powershell"}

// completionScripts by shell. They hold no knowledge of the commands, so that they need no update.
var completionScripts = map[string]string{
	"bash": `# bash completion for bastion: source <(bastion completion bash)
_bastion() {
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
complete -o default -F _bastion bastion
`,
	"zsh": `#compdef bastion
_bastion() {
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
  (( ${#described} )) && _describe -t bastion 'bastion' described
  (( ${#parts} )) && compadd -S '' -a parts
}
if [[ "$funcstack[1]" == "_bastion" ]]; then
  _bastion "$@"
else
  compdef _bastion bastion
fi
`,
	"fish": `# fish completion for bastion
function __bastion_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
  count $found >/dev/null; and printf '%s\n' $found; or __fish_complete_path (commandline -ct)
end
complete -c bastion -f -a '(__bastion_complete)'
`,
	"powershell": `# PowerShell completion for bastion
Register-ArgumentCompleter -Native -CommandName bastion -ScriptBlock {
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

func (a *app) completionCommand() *command {
	return &command{
		name:    "completion",
		summary: "print a completion script for a shell",
		group:   groupOther,
		args:    strings.Join(shells, "|"),
		about:   []passage{para("Prints a script that completes commands, options, target names and the agent's forwards.")},
		examples: []string{
			"source <(bastion completion bash)",
			"bastion completion fish > ~/.config/fish/completions/bastion.fish",
			"bastion completion powershell | Out-String | Invoke-Expression",
		},
		run: a.completion,
		complete: func(args []string) []candidate {
			if len(args) > 0 {
				return nil
			}
			return plainWords(shells...)
		},
	}
}

// plainWords are candidates without a description.
func plainWords(values ...string) []candidate {
	var out []candidate
	for _, v := range values {
		out = append(out, candidate{v, ""})
	}
	return out
}

func (a *app) completion(c *cli.Context) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	script, ok := completionScripts[c.Args().First()]
	if !ok {
		return usage("choose one of: "+strings.Join(shells, ", "), "completion: unknown shell %q", c.Args().First())
	}
	return a.document("script", script)
}

// complete prints the candidates for the last of words. It never fails: a wrong configuration completes less, and a candidate that a
// terminal must not show is none.
func (a *app) complete(words []string) {
	for i, w := range words {
		if w == `""` { // PowerShell drops empty arguments of programs
			words[i] = ""
		}
	}
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	for _, cand := range a.candidates(words[:len(words)-1], last) {
		if strings.HasPrefix(cand.value, last) && printable.OneLine(cand.value+cand.help) == cand.value+cand.help {
			fmt.Fprintln(a.out, printable.Row(cand.value, cand.help))
		}
	}
}

// candidate is a word that may be completed to.
type candidate struct{ value, help string }

// candidates returns what may follow the words before the last one.
func (a *app) candidates(before []string, last string) []candidate {
	cmd := a.root()
	var wants option // whose value comes next
	var args []string
	for _, w := range before {
		name, value, given := strings.Cut(strings.TrimLeft(w, "-"), "=")
		switch {
		case wants != nil:
			wants.note(w)
			wants = nil
		case w == "--":
			return nil // a command line of another program
		case strings.HasPrefix(w, "-"):
			o := findOption(a.reachable(cmd), name)
			switch {
			case o == nil:
			case given:
				o.note(value)
			case o.value() != "":
				wants = o
			}
		case len(cmd.verbs) > 0:
			if cmd = cmd.verb(w); cmd == nil {
				return nil
			}
		default:
			args = append(args, w)
		}
	}
	switch {
	case wants != nil:
		return wants.choices() // without any the shell completes files
	case strings.HasPrefix(last, "-"):
		return optionCandidates(a.options(cmd))
	case len(cmd.verbs) > 0:
		return commandCandidates(cmd)
	case cmd.complete != nil:
		return cmd.complete(args)
	}
	return nil
}

// settingChoices are the values of a setting that are worth listing.
func settingChoices(key string) []candidate {
	switch key {
	case "output":
		return []candidate{{"text", ""}, {"json", ""}}
	case "sessions":
		return []candidate{{"1", "one session only"}, {"4", ""}, {"8", "the default"}, {"16", "the most"}}
	case "profile":
		return awsProfiles()
	}
	return nil
}

// profileLine is the beginning of a profile in the AWS configuration. Its name may have quotes.
var profileLine = regexp.MustCompile(`(?m)^\[[ \t]*(?:profile[ \t]+)?"?([^]" \t]+)"?[ \t]*\]`)

// awsProfiles returns the profiles of the AWS configuration.
func awsProfiles() []candidate {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	var names []string
	for variable, file := range map[string]string{
		"AWS_CONFIG_FILE":             "config",
		"AWS_SHARED_CREDENTIALS_FILE": "credentials",
	} {
		data, err := os.ReadFile(cmp.Or(os.Getenv(variable), filepath.Join(home, ".aws", file)))
		if err != nil {
			continue
		}
		for _, m := range profileLine.FindAllStringSubmatch(string(data), -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	var out []candidate
	for _, name := range slices.Compact(names) {
		out = append(out, candidate{name, "AWS profile"})
	}
	return out
}

func commandCandidates(c *command) []candidate {
	var out []candidate
	for _, v := range c.listed() {
		out = append(out, candidate{v.name, v.summary})
	}
	return out
}

func optionCandidates(options []option) []candidate {
	var out []candidate
	for _, o := range options {
		out = append(out, candidate{dashes(o.Names()[0]), o.meaning()})
	}
	return append(out, candidate{"--help", "show help"})
}

// cacheSpec begins the specs of caches.
const cacheSpec = "cache:"

// targetCandidates are the names of the configuration, and what begins the other specs.
func (a *app) targetCandidates() []candidate {
	out := []candidate{{"rds:", "an RDS instance or cluster"}, {cacheSpec, "an ElastiCache cache"}}
	s, err := config.Load(config.Source{Flags: a.flags, File: a.configFile})
	if err != nil {
		return out
	}
	var names []candidate
	for name, t := range s.Targets {
		names = append(names, candidate{name, t.Spec})
	}
	slices.SortFunc(names, func(x, y candidate) int { return strings.Compare(x.value, y.value) })
	return append(names, out...)
}

// completionWait bounds the question to the agent: who presses TAB waits for the answer.
const completionWait = 200 * time.Millisecond

// forwardCandidates are the agent's forwards. An agent that does not run has none, and is not started.
func (a *app) forwardCandidates() []candidate {
	s, err := config.Load(config.Source{Flags: a.flags, File: a.configFile})
	if err != nil {
		return nil
	}
	path, err := api.SocketPath(s)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionWait)
	defer cancel()
	st, err := api.NewClient(path).State(ctx)
	if err != nil {
		return nil
	}
	var out []candidate
	for _, f := range st.Forwards {
		out = append(out, candidate{f.Name, f.Listen})
	}
	return out
}
