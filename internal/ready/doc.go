// Package ready tells a script that forwards are open, and where they listen: by a file, or by a descriptor that the script has
// opened. Both carry the same line of JSON, a Message.
//
// The file appears whole or not at all, and goes before the forwards do. One that a killed command left is not taken for a new one,
// because the next command removes it at its start. Another command's file, and a file of something else, stay.
package ready
