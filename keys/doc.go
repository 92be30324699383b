// Package keys makes and checks the means of trust between the ends of a link. They are ephemeral key pairs that live only in
// memory, grants that make a bastion accept one, and the bastion's reply with the host key to pin. It also has the ssh-agent socket
// for OpenSSH. It knows neither AWS nor the network.
package keys
