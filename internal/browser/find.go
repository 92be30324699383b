package browser

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// System is the part of the system that Find uses.
type System struct {
	goos string
	look func(string) (string, error) // as exec.LookPath
	env  func(string) string
}

// ThisSystem returns the System of this process.
func ThisSystem() System { return System{runtime.GOOS, exec.LookPath, os.Getenv} }

// browsers lists the known browsers with their paths, in the order of preference.
var browsers = []struct {
	name    string
	linux   []string
	darwin  string // below the Applications folders
	windows string // below the program folders
}{
	{
		"chromium",
		[]string{"chromium", "/snap/bin/chromium", "chromium-browser"},
		"Chromium.app/Contents/MacOS/Chromium",
		`Chromium\Application\chrome.exe`,
	},
	{
		"chrome",
		[]string{"google-chrome", "google-chrome-stable"},
		"Google Chrome.app/Contents/MacOS/Google Chrome",
		`Google\Chrome\Application\chrome.exe`,
	},
	{
		"edge",
		[]string{"microsoft-edge", "microsoft-edge-stable"},
		"Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
		`Microsoft\Edge\Application\msedge.exe`,
	},
	{
		"brave",
		[]string{"brave-browser", "brave"},
		"Brave Browser.app/Contents/MacOS/Brave Browser",
		`BraveSoftware\Brave-Browser\Application\brave.exe`,
	},
	{"firefox", []string{"firefox", "firefox-esr"}, "Firefox.app/Contents/MacOS/firefox", `Mozilla Firefox\firefox.exe`},
}

// Find returns the wanted browser: a known name, a program's path, or "" for the first installed one.
func Find(wanted string, sys System) (*Browser, error) {
	var names []string
	for _, b := range browsers {
		names = append(names, b.name)
		if wanted != "" && !strings.EqualFold(wanted, b.name) {
			continue
		}
		for _, place := range sys.places(b.linux, b.darwin, b.windows) {
			if path, err := sys.look(place); err == nil {
				return &Browser{name: b.name, Program: path, firefox: b.name == "firefox"}, nil
			}
		}
		if wanted != "" {
			return nil, fail.New(fail.Usage, "", fmt.Errorf("%s is not installed", b.name),
				"install it, name its program by --browser PATH, or leave --browser out for another one")
		}
	}
	if wanted == "" {
		return nil, fail.New(fail.Other, "", errors.New("no browser is installed where one is looked for"),
			"install Chromium, Chrome, Edge, Brave or Firefox, name another by --browser PATH, "+
				"or set up your own: bastion socks 1080")
	}
	path, err := sys.look(wanted)
	if err != nil {
		return nil, fail.New(fail.Usage, "--browser", err, "name a program, or one of: "+strings.Join(names, ", "))
	}
	base := strings.TrimSuffix(strings.ToLower(filepath.Base(path)), ".exe")
	isFirefox := strings.Contains(base, "firefox") || strings.Contains(base, "librewolf")
	return &Browser{name: "other-" + base, Program: path, firefox: isFirefox}, nil
}

// places returns the possible paths of a browser.
func (sys System) places(linux []string, darwin, windows string) []string {
	switch sys.goos {
	case "darwin":
		return []string{"/Applications/" + darwin, sys.env("HOME") + "/Applications/" + darwin}
	case "windows":
		var out []string
		for _, folder := range []string{"ProgramFiles", "ProgramFiles(x86)", "LocalAppData"} {
			if dir := sys.env(folder); dir != "" {
				out = append(out, dir+`\`+windows)
			}
		}
		return out
	}
	return linux
}
