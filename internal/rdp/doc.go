// Package rdp opens the desktop of a Windows instance: it writes the .rdp file of a forward, finds and runs an RDP client, and decrypts
// the administrator's password that EC2 keeps for the holder of the instance's key.
//
// The password never is in a command line or a file. A client that takes it from standard input gets it there.
package rdp
