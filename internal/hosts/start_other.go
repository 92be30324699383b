//go:build !linux && !darwin && !windows

package hosts

import "errors"

func startTime(int) (string, error) { return "", errors.ErrUnsupported }
