// Package service runs the agent as a system service: a unit of systemd's user manager, a launchd agent on macOS, or a Windows
// service.
package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	kardianos "github.com/kardianos/service"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Without is the hint for starting the agent without a service.
const Without = "bastion agent start starts the agent without a service"

// managerTimeout bounds the check that systemd's user manager answers.
const managerTimeout = 10 * time.Second

// Program is the agent in the process that Windows' service manager starts. The manager calls Start and Stop.
type Program interface {
	Start() error
	Stop() error
}

// Options are the service's program and arguments.
type Options struct {
	Path    string   // the program's path
	Args    []string // its arguments
	Windows []string // its arguments on Windows, where it must answer the service manager
	Program Program  // answers the service manager on Windows
}

// Service is the agent as a system service.
type Service struct {
	kardianos.Service
	config *kardianos.Config
	File   string // the file that defines the service; "" on Windows
}

// program adapts a Program to the library.
type program struct{ Program }

func (p program) Start(kardianos.Service) error { return p.Program.Start() }
func (p program) Stop(kardianos.Service) error  { return p.Program.Stop() }

// New returns the service, installed or not. It fails if the system has no service manager. verb names the operation in errors.
func New(ctx context.Context, verb string, o Options) (*Service, error) {
	op := verb + " the service"
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "set HOME")
	}
	s := &Service{config: &kardianos.Config{
		Name: "bastion-agent", DisplayName: "bastion agent", Description: "bastion: forwards into private AWS networks",
		Executable: o.Path, Arguments: o.Args, Option: kardianos.KeyValue{"UserService": true},
	}}
	system := kardianos.ChosenSystem()
	switch runtime.GOOS {
	case "linux":
		s.File = filepath.Join(home, ".config", "systemd", "user", s.config.Name+".service")
		words := []*string{&s.config.Executable}
		for i := range s.config.Arguments {
			words = append(words, &s.config.Arguments[i])
		}
		if err := escape(words...); err != nil {
			return nil, err
		}
		s.config.Option["SystemdScript"] = systemdUnit
		if system, err = systemd(ctx, op, s.File); err != nil {
			return nil, err
		}
	case "darwin":
		s.config.Name = "io.github.bastion-ssm.agent"
		s.File = filepath.Join(home, "Library", "LaunchAgents", s.config.Name+".plist")
		s.config.Option["LaunchdConfig"] = launchdConfig
	case "windows":
		s.config.Arguments = o.Windows
	default:
		system = nil
	}
	if system == nil {
		return nil, fail.New(fail.Usage, op, fmt.Errorf("there is none on %s", runtime.GOOS), Without)
	}
	if s.Service, err = system.New(program{o.Program}, s.config); err != nil {
		return nil, fail.New(fail.Other, op, err, Without)
	}
	return s, nil
}

// systemd returns systemd's service manager, if it answers.
func systemd(ctx context.Context, op, file string) (kardianos.System, error) {
	ctx, cancel := context.WithTimeout(ctx, managerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "--user", "show-environment")
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		why := strings.TrimSpace(string(out))
		if why == "" || errors.Is(err, exec.ErrNotFound) {
			why = err.Error()
		}
		next := Without
		if _, err := os.Stat(file); err == nil {
			next += "; what was installed is " + file
		}
		return nil, fail.New(fail.Other, op, fmt.Errorf("systemd's user manager does not answer: %s", why), next)
	}
	for _, sys := range kardianos.AvailableSystems() {
		if sys.String() == "linux-systemd" {
			return sys, nil
		}
	}
	return nil, fail.New(fail.Other, op, errors.New("this program is built without systemd"), Without)
}

// escape escapes words, the program and its arguments, for a systemd unit. It refuses characters that a unit cannot contain.
func escape(words ...*string) error {
	for _, w := range words {
		if strings.ContainsFunc(*w, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("\"\\$", r) }) {
			return fail.New(fail.Usage, "", fmt.Errorf("a unit of systemd cannot hold %q", *w), "use another path or value")
		}
		*w = strings.ReplaceAll(*w, "%", "%%")
	}
	return nil
}

// Installed reports whether the service is installed.
func (s *Service) Installed() (bool, error) {
	if s.File != "" {
		_, err := os.Stat(s.File)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	_, err := s.Status()
	if errors.Is(err, kardianos.ErrNotInstalled) {
		return false, nil
	}
	return err == nil, err
}

// NeedInstalled returns an error if the service is not installed.
func (s *Service) NeedInstalled(verb string) error {
	ok, err := s.Installed()
	if err == nil && !ok {
		return fail.New(fail.Usage, verb+" the service", errors.New("it is not installed"),
			"run bastion service install; "+Without)
	}
	return err
}

// Install installs the service. It must not be installed yet.
func (s *Service) Install() error {
	const op = "install the service"
	if s.File != "" {
		if err := files.CheckPlace(s.File); err != nil {
			return fail.New(fail.Usage, op, err, "run the command as that user, without sudo")
		}
	}
	if err := s.Service.Install(); err != nil {
		if s.File != "" {
			err = errors.Join(err, os.Remove(s.File)) // the file did not exist before
		}
		return fail.New(fail.Other, op, err, Without)
	}
	return nil
}

// As makes the service run as a user. Windows keeps the user's password.
func (s *Service) As(user, password string) {
	s.config.UserName = user
	s.config.Option["Password"] = password
}

// Running reports whether the service runs. The error is its manager's.
func (s *Service) Running() (bool, error) {
	st, err := s.Status()
	if errors.Is(err, kardianos.ErrNotInstalled) {
		err = nil
	}
	return st == kardianos.StatusRunning, err
}

// Interactive reports whether this process runs without a service manager.
func Interactive() bool { return kardianos.Interactive() }

// Name returns the service's name for messages: its file, or its name on Windows.
func (s *Service) Name() string {
	if s.File != "" {
		return s.File
	}
	return s.config.Name
}

// Logs returns a hint for finding the cause of the service's failures.
func (s *Service) Logs() string {
	if runtime.GOOS == "linux" {
		return "journalctl --user -u " + s.config.Name + " says why"
	}
	return "bastion agent run, in a terminal, says why"
}
