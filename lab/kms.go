package lab

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"strings"
	"sync/atomic"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// kms is the Key Management Service with one key, which lives in memory.
type kms struct {
	site
	id   string
	aead cipher.AEAD

	disabled atomic.Bool
}

func newKMS(at site) (*kms, error) {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &kms{site: at, id: seededUUID(randomHex(16)), aead: aead}, nil
}

func (k *kms) keyARN() string { return k.arn("kms", "key/"+k.id) }

func (k *kms) service() awsapi.Service {
	access := func(c *awsapi.Call) []awsapi.Access {
		in := inputOf[decryptInput](c)
		return []awsapi.Access{k.access(c.Name(), in.EncryptionContext)}
	}
	return awsapi.Service{
		Name: "kms", Protocol: awsapi.JSON, Target: "TrentService", Version: "2014-11-01",
		Ops: map[string]awsapi.Op{
			"GenerateDataKey": {Handle: jsonOp(k.generateDataKey), Access: access},
			"Decrypt":         {Handle: jsonOp(k.decryptCall), Access: access},
		},
	}
}

// access returns an action on the key. The encryption context determines the condition keys.
func (k *kms) access(action string, context map[string]string) awsapi.Access {
	keys := named(iam.Context{}, "kms:EncryptionContext:", context).With("kms:EncryptionContextKeys", sortedKeys(context)...).
		With("kms:CallerAccount", k.account)
	return awsapi.Access{Action: action, Resource: k.keyARN(), Context: keys}
}

// has reports whether ref names the key: by its id, its ARN or the alias that the lab gives it.
func (k *kms) has(ref string) bool {
	return ref == k.id || ref == k.keyARN() || ref == "alias/lab" || ref == k.arn("kms", "alias/lab")
}

func (k *kms) notFound(ref string) error {
	if strings.HasPrefix(ref, "alias/") {
		ref = k.arn("kms", ref)
	} else if !strings.HasPrefix(ref, "arn:") {
		ref = k.arn("kms", "key/"+ref)
	}
	return awsapi.Errorf("NotFoundException", "Key '%s' does not exist", ref)
}

type generateDataKeyInput struct {
	KeyID             string            `json:"KeyId"`
	KeySpec           string            `json:"KeySpec"`
	NumberOfBytes     int               `json:"NumberOfBytes"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
	DryRun            bool              `json:"DryRun"`
}

func (k *kms) generateDataKey(_ context.Context, _ *awsapi.Call, in *generateDataKeyInput) (any, error) {
	if !k.has(in.KeyID) {
		return nil, k.notFound(in.KeyID)
	}
	if k.disabled.Load() {
		return nil, awsapi.Errorf("DisabledException", "%s is disabled.", k.keyARN())
	}
	size := map[string]int{"AES_128": 16, "AES_256": 32}[in.KeySpec]
	switch {
	case (in.KeySpec == "") == (in.NumberOfBytes == 0):
		return nil, awsapi.Errorf("ValidationException", "Please specify either number of bytes or key spec.")
	case in.KeySpec != "" && size == 0:
		return nil, validationError(in.KeySpec, "keySpec", "Member must satisfy enum value set: [AES_256, AES_128]")
	case in.KeySpec == "":
		if size = in.NumberOfBytes; size < 1 || size > 1024 {
			return nil, validationError(size, "numberOfBytes", "Member must have value between 1 and 1024")
		}
	}
	if in.DryRun {
		return nil, &awsapi.Error{
			Code: "DryRunOperationException", Status: 412,
			Message: "The request would have succeeded, but the DryRun option is set.",
		}
	}
	plain := make([]byte, size)
	_, _ = rand.Read(plain) // never fails
	additional, err := json.Marshal(in.EncryptionContext)
	if err != nil {
		return nil, err
	}
	type output struct {
		CiphertextBlob []byte `json:"CiphertextBlob"`
		Plaintext      []byte `json:"Plaintext"`
		KeyID          string `json:"KeyId"`
	}
	sealed := k.aead.Seal(nil, nil, plain, additional) //nolint:gosec // this AEAD makes its nonces itself
	return output{sealed, plain, k.keyARN()}, nil
}

type decryptInput struct {
	CiphertextBlob    []byte            `json:"CiphertextBlob"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
	KeyID             string            `json:"KeyId"`
}

func (k *kms) decryptCall(ctx context.Context, _ *awsapi.Call, in *decryptInput) (any, error) {
	if in.KeyID != "" && !k.has(in.KeyID) {
		return nil, awsapi.Errorf("IncorrectKeyException", "The key ID in the request does not identify a CMK that can "+
			"perform this operation.")
	}
	plain, err := k.decrypt(ctx, in.CiphertextBlob, in.EncryptionContext)
	if err != nil {
		return nil, err
	}
	type output struct {
		Plaintext           []byte `json:"Plaintext"`
		KeyID               string `json:"KeyId"`
		EncryptionAlgorithm string `json:"EncryptionAlgorithm"`
	}
	return output{plain, k.keyARN(), "SYMMETRIC_DEFAULT"}, nil
}

// decrypt undoes generateDataKey, but only in the same encryption context. The agent's part of a session calls it too.
func (k *kms) decrypt(_ context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
	additional, err := json.Marshal(encryptionContext)
	if err != nil {
		return nil, err
	}
	plain, err := k.aead.Open(nil, nil, ciphertext, additional)
	if err != nil {
		return nil, awsapi.Errorf("InvalidCiphertextException", "The ciphertext or its encryption context is not valid.")
	}
	return plain, nil
}
