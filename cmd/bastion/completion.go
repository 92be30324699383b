package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
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
}
complete -o default -F _bastion bastion
`,
	"zsh": `#compdef bastion
_bastion() {
  local -a lines described
  local line
  lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  for line in $lines; do
    described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  if (( ${#described} )); then
    _describe -t bastion 'bastion' described
  else
    _files
  fi
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
  $words[1] __complete $words[2..-1] 2>/dev/null
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
	_, err := fmt.Fprint(a.out, script)
	return err
}

// complete prints the candidates for the last of words. It never fails: a wrong configuration completes less.
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
		if strings.HasPrefix(cand.value, last) {
			fmt.Fprintf(a.out, "%s\t%s\n", cand.value, cand.help)
		}
	}
}

type candidate struct{ value, help string }

func (a *app) candidates(before []string, last string) []candidate {
	c := a.cli()
	var cmd *cli.Command
	flags := c.Flags
	var wants cli.Flag // the flag whose value comes next
	for _, w := range before {
		switch {
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
		}
	}
	switch {
	case wants != nil:
		switch wants.Names()[0] {
		case "output":
			return []candidate{{"text", ""}, {"json", ""}}
		case "sessions":
			return []candidate{{"1", "one session only"}, {"4", ""}, {"8", "the default"}, {"16", "the most"}}
		}
		return nil
	case strings.HasPrefix(last, "-"):
		return flagCandidates(flags)
	case cmd == nil:
		return commandCandidates(c)
	}
	switch cmd.Name {
	case "forward":
		return a.targetCandidates()
	case "completion":
		var out []candidate
		for _, s := range shells {
			out = append(out, candidate{s, ""})
		}
		return out
	case "help":
		return append(commandCandidates(c), candidate{"settings", "every setting"})
	}
	return nil
}

// note gives --config its value, so that the right file's targets are completed.
func note(f cli.Flag, value string) {
	if t, ok := f.(*textFlag); ok {
		t.set(value)
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

func (a *app) targetCandidates() []candidate {
	out := []candidate{{"rds:", "an RDS instance or cluster"}, {"cache:", "an ElastiCache cache"}}
	s, err := config.Load(config.Source{File: a.configFile})
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
