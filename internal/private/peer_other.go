//go:build !linux && !darwin

package private

import "errors"

func peerOf(int) (Peer, error) { return Peer{}, errors.ErrUnsupported }
