// Package keys makes and checks what the two ends of a link trust each other by: ephemeral key pairs that live in
// memory only, the grants by which a bastion accepts one, the bastion's reply with the host key to pin, and the
// ssh-agent socket by which OpenSSH can use a pair. It knows neither AWS nor the network.
package keys
