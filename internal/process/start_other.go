//go:build !linux && !darwin && !windows

package process

import "errors"

func StartTime(int) (string, error) { return "", errors.ErrUnsupported }
