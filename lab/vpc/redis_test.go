package vpc

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestRedis(t *testing.T) {
	for _, mode := range modes(t, "redis-server") {
		t.Run(string(mode), func(t *testing.T) {
			host, port := LoopbackAddr(6379)
			r, err := StartRedis(t.Context(), RedisConfig{
				Mode: mode, Host: host, Port: port, Password: `a "secret" word`,
				Seed: map[string]string{"greeting": "hello from the VPC"}, Logger: testLogger(t),
			})
			if err != nil {
				t.Fatal(err)
			}
			closed := false
			t.Cleanup(func() {
				if !closed {
					_ = r.Close()
				}
			})
			if got, want := r.Embedded(), mode == Embedded; got != want {
				t.Errorf("Embedded() = %v", got)
			}
			if isReal := strings.HasPrefix(r.Version(), "Redis "); isReal == r.Embedded() {
				t.Errorf("version %q", r.Version())
			}
			client := redisClient(r.Addr(), `a "secret" word`)
			defer client.Close()
			if got, err := client.Get(t.Context(), "greeting").Result(); got != "hello from the VPC" {
				t.Errorf("%q, %v", got, err)
			}
			if n, err := client.Incr(t.Context(), "n").Result(); n != 1 {
				t.Errorf("%d, %v", n, err)
			}
			stranger := redisClient(r.Addr(), "")
			defer stranger.Close()
			if err := stranger.Get(t.Context(), "greeting").Err(); err == nil || !redis.HasErrorPrefix(err, "NOAUTH") {
				t.Errorf("without the password: %v", err)
			}
			closed = true
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if err := client.Ping(context.Background()).Err(); err == nil {
				t.Error("it still answers")
			}
		})
	}
}

func TestRedisStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, mode := range modes(t, "redis-server") {
		for want, cfg := range map[string]RedisConfig{
			"not a loopback address": {Host: "192.0.2.1"},
			"address already in use": {Port: taken.Addr().(*net.TCPAddr).Port},
		} {
			cfg.Mode, cfg.Logger = mode, testLogger(t)
			r, err := StartRedis(t.Context(), cfg)
			if err == nil {
				t.Fatal("started", r.Close())
			}
			if !strings.Contains(strings.ToLower(err.Error()), want) {
				t.Errorf("%s: %v\nwant %q in it", mode, err, want)
			}
		}
	}
}

// A server that answers on the same address is not taken for ours.
func TestRedisKnowsItself(t *testing.T) {
	if len(modes(t, "redis-server")) < 2 {
		return
	}
	cfg := RedisConfig{Mode: Real, Logger: testLogger(t)}
	first, err := StartRedis(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	cfg.Port = int(first.Addr().Port())
	second, err := StartRedis(t.Context(), cfg)
	if err == nil {
		t.Fatal("two servers on one address", second.Close())
	}
}
