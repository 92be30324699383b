package rdp

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// maxKey bounds the size of a key file.
const maxKey = 64 << 10

// Key is the private key of an instance's key pair.
type Key struct {
	path string
	key  *rsa.PrivateKey
}

// ReadKey reads the private key of a key pair, in PEM or in OpenSSH's form.
func ReadKey(path string) (*Key, error) {
	data, err := files.Read(path, maxKey)
	if err != nil {
		return nil, keyError(path, err, "name the private key of the instance's key pair")
	}
	parsed, err := ssh.ParseRawPrivateKey(data)
	if errors.As(err, new(*ssh.PassphraseMissingError)) {
		return nil, keyError(path, errors.New("the key has a passphrase"),
			"write a copy without one for the time being: openssl rsa -in "+path+" -out FILE")
	}
	if err != nil {
		return nil, keyError(path, err, "name the private key of the instance's key pair, in PEM")
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, keyError(path, errors.New("it is not an RSA key, and EC2 encrypts a password for RSA keys alone"),
			"name the private key of the instance's key pair")
	}
	return &Key{path, key}, nil
}

func keyError(path string, err error, next string) error {
	return fail.New(fail.Usage, "read the key "+path, err, next)
}

// Decrypt returns the password in EC2's answer, which has it in base64.
func (k *Key) Decrypt(data string) (string, error) {
	const op = "decrypt the instance's password"
	cipher, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data))
	if err != nil {
		return "", fail.New(fail.Other, op, err, "")
	}
	plain, err := rsa.DecryptPKCS1v15(nil, k.key, cipher) //nolint:staticcheck // SA1019: EC2 encrypts it in this way
	if err != nil || !utf8.Valid(plain) || len(plain) == 0 {
		return "", fail.New(fail.Usage, op, errors.New(k.path+" is not the key of the instance's key pair"),
			"name the key of the pair that the instance was started with (aws ec2 describe-instances shows KeyName)")
	}
	return string(plain), nil
}
