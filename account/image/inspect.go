package image

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"path"
	"runtime/debug"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// machines are the architectures as ELF names them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// inspect makes sure that a binary can run in the image: bastiond, static, for Linux and the architecture. It returns what the Go
// linker wrote into it.
func inspect(arch string, binary []byte) (*debug.BuildInfo, error) {
	refuse := func(format string, args ...any) error {
		return fail.Usagef("build it by CGO_ENABLED=0 GOOS=linux GOARCH="+arch+" go build -trimpath ./cmd/bastiond", format, args...)
	}
	program, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return nil, refuse("the binary is not a Linux program: %w", err)
	}
	if program.Machine != machines[arch] {
		return nil, refuse("the binary is for %v", program.Machine)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, refuse("the binary is not static, and the image has no libraries")
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, refuse("the binary does not list its modules: %w", err)
	}
	if path.Base(info.Path) != "bastiond" {
		return nil, refuse("the binary is %s, not bastiond", info.Path)
	}
	return info, nil
}
