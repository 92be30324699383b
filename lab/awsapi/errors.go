package awsapi

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is an API error in a client's view.
type Error struct {
	Code    string
	Message string
	Status  int // HTTP status; 0 means 400
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf returns an Error with status 400.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// errorKind is an error that every service has, under its protocol's own name.
type errorKind uint8

const (
	errMissingAuth errorKind = iota
	errIncompleteSignature
	errUnknownKey
	errBadSignature
	errSkew
	errExpiredToken
	errDenied
	errThrottled
	errUnknownAction
	errMalformed
	errInternal
	numErrorKinds
)

type codeStatus struct {
	code   string
	status int
}

var commonErrors = [...][numErrorKinds]codeStatus{
	JSON: {
		errMissingAuth:         {"MissingAuthenticationTokenException", 400},
		errIncompleteSignature: {"IncompleteSignatureException", 400},
		errUnknownKey:          {"UnrecognizedClientException", 400},
		errBadSignature:        {"InvalidSignatureException", 400},
		errSkew:                {"InvalidSignatureException", 400},
		errExpiredToken:        {"ExpiredTokenException", 400},
		errDenied:              {"AccessDeniedException", 400},
		errThrottled:           {"ThrottlingException", 400},
		errUnknownAction:       {"UnknownOperationException", 400},
		errMalformed:           {"SerializationException", 400},
		errInternal:            {"InternalServerError", 500},
	},
	Query: {
		errMissingAuth:         {"MissingAuthenticationToken", 403},
		errIncompleteSignature: {"IncompleteSignature", 400},
		errUnknownKey:          {"InvalidClientTokenId", 403},
		errBadSignature:        {"SignatureDoesNotMatch", 403},
		errSkew:                {"SignatureDoesNotMatch", 403},
		errExpiredToken:        {"ExpiredToken", 403},
		errDenied:              {"AccessDenied", 403},
		errThrottled:           {"Throttling", 400},
		errUnknownAction:       {"InvalidAction", 400},
		errMalformed:           {"MalformedInput", 400},
		errInternal:            {"InternalFailure", 500},
	},
	EC2: {
		errMissingAuth:         {"MissingAuthenticationToken", 403},
		errIncompleteSignature: {"IncompleteSignature", 400},
		errUnknownKey:          {"AuthFailure", 401},
		errBadSignature:        {"AuthFailure", 401},
		errSkew:                {"RequestExpired", 400},
		errExpiredToken:        {"RequestExpired", 400},
		errDenied:              {"UnauthorizedOperation", 403},
		errThrottled:           {"RequestLimitExceeded", 503},
		errUnknownAction:       {"InvalidAction", 400},
		errMalformed:           {"MalformedInput", 400},
		errInternal:            {"InternalError", 500},
	},
	RESTJSON: {
		errMissingAuth:         {"MissingAuthenticationTokenException", 403},
		errIncompleteSignature: {"IncompleteSignatureException", 403},
		errUnknownKey:          {"UnrecognizedClientException", 403},
		errBadSignature:        {"InvalidSignatureException", 403},
		errSkew:                {"InvalidSignatureException", 403},
		errExpiredToken:        {"ExpiredTokenException", 403},
		errDenied:              {"AccessDeniedException", 403},
		errThrottled:           {"ThrottlingException", 429},
		errUnknownAction:       {"UnknownOperationException", 404},
		errMalformed:           {"SerializationException", 400},
		errInternal:            {"InternalServerException", 500},
	},
	RESTXML: { // as agents report them; the statuses are guesses
		errMissingAuth:         {"BadRequest", 400},
		errIncompleteSignature: {"BadRequest", 400},
		errUnknownKey:          {"BadRequest", 400},
		errBadSignature:        {"BadRequest", 400},
		errSkew:                {"BadRequest", 400},
		errExpiredToken:        {"BadRequest", 400},
		errDenied:              {"AccessDeniedException", 403},
		errThrottled:           {"BadRequest", 400},
		errUnknownAction:       {"BadRequest", 400},
		errMalformed:           {"BadRequest", 400},
		errInternal:            {"InternalServerError", 500},
	},
}

// common returns the protocol's own form of an error that every service has.
func (p Protocol) common(kind errorKind, message string) *Error {
	c := commonErrors[p][kind]
	return &Error{Code: c.code, Message: message, Status: c.status}
}

// Throttled returns the error of a call that came too soon.
func (p Protocol) Throttled() *Error {
	switch p {
	case EC2:
		return p.common(errThrottled, "Request limit exceeded.")
	case RESTXML:
		return p.common(errThrottled, "Unable to process due to throttling.")
	}
	return p.common(errThrottled, "Rate exceeded")
}

// asError returns err as an *Error. Any other error becomes an internal failure.
func (p Protocol) asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Status == 0 {
			e = &Error{Code: e.Code, Message: e.Message, Status: http.StatusBadRequest}
		}
		return e
	}
	return p.common(errInternal, err.Error())
}
