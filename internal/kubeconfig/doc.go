// Package kubeconfig writes the clusters, users and contexts of kubectl's configuration files.
//
// An entry replaces one of the same name, as with "aws eks update-kubeconfig". The rest of the file keeps its text and its comments: an
// edit changes whole entries, and is compared with what it should mean. A file in another style, such as JSON, is written anew with the
// same content.
//
// kubectl and other programs lock a file by creating another one beside it. Update does so too.
package kubeconfig
