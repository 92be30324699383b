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

func (a *app) completion(c *cli.Context) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	script, ok := completionScripts[c.Args().First()]
	if !ok {
		return usage("choose one of: "+strings.Join(shells, ", "), "no completion for the shell %q", c.Args().First())
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
		if strings.HasPrefix(cand.value, last) && oneLine(cand.value+cand.help) == cand.value+cand.help {
			fmt.Fprintln(a.out, printable.Row(cand.value, cand.help))
		}
	}
}

type candidate struct{ value, help string }

func (a *app) candidates(before []string, last string) []candidate {
	c := a.cli()
	var cmd *cli.Command
	flags := c.Flags
	var wants cli.Flag // the flag whose value comes next
	args := 0          // of the command so far
	for _, w := range before {
		switch {
		case wants == nil && w == "--":
			return nil // a command line of another program
		case wants != nil:
			note(wants, w)
			wants = nil
		case strings.HasPrefix(w, "-"):
			name, value, ok := strings.Cut(strings.TrimLeft(w, "-"), "=")
			f := findFlag(flags, name)
			if f == nil {
				continue
			}
			if ok {
				note(f, value)
			} else if d, isDoc := f.(cli.DocGenerationFlag); isDoc && d.TakesValue() {
				wants = f
			}
		case cmd == nil:
			if cmd = c.Command(w); cmd == nil {
				return nil
			}
			flags = cmd.Flags
		default:
			args++
		}
	}
	switch {
	case wants != nil:
		return a.valueCandidates(wants)
	case strings.HasPrefix(last, "-"):
		return flagCandidates(flags)
	case cmd == nil:
		return commandCandidates(c)
	}
	if verbs := verbsOf(cmd); verbs != nil {
		if args == 0 {
			return verbs
		}
		return nil
	}
	switch cmd.Name {
	case "forward", "exec":
		return a.targetCandidates()
	case "url":
		return append(a.forwardCandidates(), a.targetCandidates()...)
	case "token":
		return slices.DeleteFunc(a.targetCandidates(), func(c candidate) bool { return c.value == cacheSpec })
	case "stop":
		return append(a.forwardCandidates(), candidate{"all", "every forward"})
	case "wait":
		return a.forwardCandidates()
	case "proxy", "known-hosts":
		return []candidate{{"bastion", "the bastion's own SSH server"}}
	case "help":
		return append(commandCandidates(c), candidate{"settings", "every setting"})
	case "man":
		return commandCandidates(c)
	}
	return nil
}

// verbPattern is what the usage of a command that has verbs looks like: start|stop, or [start|stop].
var verbPattern = regexp.MustCompile(`^\[?([a-z]+(?:\|[a-z]+)+)\]?$`)

// verbsOf returns the words that the command's first argument is one of; nil: it may be any.
func verbsOf(cmd *cli.Command) []candidate {
	m := verbPattern.FindStringSubmatch(cmd.ArgsUsage)
	if m == nil {
		return nil
	}
	var out []candidate
	for verb := range strings.SplitSeq(m[1], "|") {
		out = append(out, candidate{verb, ""})
	}
	return out
}

// valueCandidates are the values of a flag. Without any the shell completes files.
func (a *app) valueCandidates(f cli.Flag) []candidate {
	switch f.Names()[0] {
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

// note keeps the value of a flag: the right file's targets are completed, and the right agent is asked.
func note(f cli.Flag, value string) {
	switch f := f.(type) {
	case *settingFlag:
		f.into[f.setting.Key] = value
	case *textFlag:
		if f.set != nil {
			f.set(value)
		}
	}
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func commandCandidates(c *cli.App) []candidate {
	var out []candidate
	for _, cmd := range c.Commands {
		if !cmd.Hidden {
			out = append(out, candidate{cmd.Name, cmd.Usage})
		}
	}
	return out
}

func flagCandidates(flags []cli.Flag) []candidate {
	var out []candidate
	for _, f := range flags {
		help := ""
		switch f := f.(type) {
		case *settingFlag:
			help = f.setting.Help
		case *textFlag:
			help = f.help
		}
		out = append(out, candidate{dashes(f.Names()[0]), help})
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
