package lab

import (
	"slices"
	"sync"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// shelf keeps a service's things. It is safe for concurrent use.
type shelf[T any] struct {
	mu    sync.Mutex
	items []T
}

func (s *shelf[T]) add(item T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = append(s.items, item)
}

// all returns every thing.
func (s *shelf[T]) all() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.items)
}

// those returns the things that keep accepts.
func (s *shelf[T]) those(keep func(T) bool) []T {
	return slices.DeleteFunc(s.all(), func(item T) bool { return !keep(item) })
}

// page returns a page of a service whose tokens are "" for the first page and the last.
func page[T any](items []T, token string, size int) ([]T, string, error) {
	some, next, ok := awsapi.Page(items, token, size)
	if !ok {
		return nil, "", awsapi.Errorf("ValidationException", "The token is invalid.")
	}
	return some, next, nil
}

// withToken adds the next page's token to an answer, if there is one.
func withToken(answer map[string]any, key, token string) map[string]any {
	if token != "" {
		answer[key] = token
	}
	return answer
}

// host returns a name in a service's domain in the region.
func (s site) host(first, service string) string {
	return first + "." + s.region + "." + service + "." + s.partition().DNSSuffix
}
