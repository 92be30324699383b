package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/pem"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	uid        = 65532 // of bastiond
	owner      = "65532:65532"
	controlDir = "run/bastiond" // of the control socket
)

// file is an entry of a tar archive. A directory's name ends in a slash. Its group is root's.
type file struct {
	name    string
	mode    int64
	uid     int
	content []byte
}

// rootFS returns the root file system that bastion-image/rootfs.sh makes, in order.
func rootFS(binary []byte, info Info) []file {
	id := strconv.Itoa(uid)
	text := func(name, content string) file { return file{name: name, mode: 0o644, content: []byte(content)} }
	root := []file{
		{name: "bastiond", mode: 0o755, content: binary},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: info.Certificates},
		text("etc/passwd", "root:x:0:0:root:/:/nonexistent\nbastiond:x:"+id+":"+id+":bastiond:/:/nonexistent\n"),
		text("etc/group", "root:x:0:\nbastiond:x:"+id+":\n"),
		text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
		text("etc/nsswitch.conf", "hosts: files dns\n"),
		{name: controlDir + "/", mode: 0o710, uid: uid}, // root, which has no capability in the task, enters it by its group
	}
	if info.Allow != "" {
		root = append(root, text("etc/bastiond/allow", info.Allow+"\n"))
	}
	// The mount points that the ECS Exec agent needs, and those of any container.
	for _, dir := range []string{"managed-agents", "var/lib/amazon/ssm", "var/log/amazon/ssm", "dev", "proc", "sys"} {
		root = append(root, file{name: dir + "/", mode: 0o755})
	}
	return sorted(withParents(root))
}

// withParents adds the directories above the files, which belong to root.
func withParents(files []file) []file {
	known := map[string]bool{}
	for _, f := range files {
		known[f.name] = true
	}
	for _, f := range files {
		for dir := path.Dir(strings.TrimSuffix(f.name, "/")); dir != "."; dir = path.Dir(dir) {
			if name := dir + "/"; !known[name] {
				known[name] = true
				files = append(files, file{name: name, mode: 0o755})
			}
		}
	}
	return files
}

// sorted puts files in order: a directory comes before its entries.
func sorted(files []file) []file {
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	return files
}

// writeTar writes files as a tar archive. Their times are the beginning of 1970.
func writeTar(w io.Writer, files []file) error {
	archive := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{
			Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content)),
			Uid: f.uid, ModTime: time.Unix(0, 0),
		}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(f.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// mozilla returns Mozilla's CA certificates in PEM. It leaves out a root that Mozilla trusts under a condition, because PEM
// cannot express the condition.
func mozilla() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a bytes.Buffer takes everything
		}
	}
	return text.Bytes()
}
