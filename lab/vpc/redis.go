package vpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// RedisConfig configures a Redis server.
type RedisConfig struct {
	Mode     Mode
	Host     string            // a loopback address; empty means 127.0.0.1
	Port     int               // 0 takes a free one
	Dir      string            // for the server's files; empty means a temporary directory, removed by Close
	Password string            // empty means none is asked for
	Seed     map[string]string // keys to set
	Logger   *slog.Logger      // nil means none
}

// Redis is a running server.
type Redis struct {
	addr    netip.AddrPort
	version string
	server  *child               // nil when embedded
	mini    *miniredis.Miniredis // nil when real
	tempDir string               // to remove at Close; may be empty
}

// StartRedis starts a Redis and returns once it answers and is seeded. ctx bounds the start only; end it by Close.
func StartRedis(ctx context.Context, cfg RedisConfig) (_ *Redis, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start Redis: %w", err)
		}
	}()
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Host, err = prepareHost(cfg.Host, cfg.Port); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	r, err := startEither(ctx, cfg.Mode, "Redis", cfg.Logger,
		func() (*Redis, error) { return startRealRedis(ctx, cfg) },
		func() (*Redis, error) { return startMiniRedis(cfg) })
	if err != nil {
		return nil, err
	}
	if err := r.seed(ctx, cfg); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	cfg.Logger.Info("Redis is up", "addr", r.addr, "version", r.version, "embedded", r.Embedded())
	return r, nil
}

// Addr returns the address that the server listens on.
func (r *Redis) Addr() netip.AddrPort { return r.addr }

// Embedded reports whether the server is a stand-in for a real Redis.
func (r *Redis) Embedded() bool { return r.mini != nil }

// Version returns the server's name and version.
func (r *Redis) Version() string { return r.version }

// Close stops the server, waits for its end and removes its temporary files.
func (r *Redis) Close() error {
	if r.mini != nil {
		r.mini.Close()
		return nil
	}
	return errors.Join(r.server.stop(stopGrace, syscall.SIGTERM), os.RemoveAll(r.tempDir))
}

func startMiniRedis(cfg RedisConfig) (*Redis, error) {
	m := miniredis.NewMiniRedis()
	if cfg.Password != "" {
		m.RequireAuth(cfg.Password)
	}
	if err := m.StartAddr(net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port))); err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddrPort(m.Addr())
	if err != nil {
		m.Close()
		return nil, err
	}
	return &Redis{addr: addr, version: "miniredis, embedded in the lab in place of Redis", mini: m}, nil
}

func startRealRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, notInstalledError{err}
	}
	dir, temp, err := serverDir(cfg.Dir, "bastion-lab-redis-")
	if err != nil {
		return nil, err
	}
	server, addr, err := startOnPort(ctx, cfg.Host, cfg.Port, func(addr netip.AddrPort) (*child, error) {
		return launchRedis(ctx, bin, dir, addr, cfg.Password)
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(temp))
	}
	return &Redis{addr: addr, version: redisVersion(ctx, bin), server: server, tempDir: temp}, nil
}

// launchRedis starts redis-server on addr and waits until it answers. The server writes only its log to disk.
func launchRedis(ctx context.Context, bin, dir string, addr netip.AddrPort, password string) (*child, error) {
	lines := []string{
		"bind " + addr.Addr().String(),
		fmt.Sprintf("port %d", addr.Port()),
		`save ""`,
		"appendonly no",
		"daemonize no",
		"dir " + strconv.Quote(dir),
	}
	if password != "" {
		lines = append(lines, "requirepass "+strconv.Quote(password))
	}
	cmd := exec.Command(bin, "-") // it outlives ctx; its owner stops it
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	cmd.Dir = dir
	cmd.Env = serverEnv()
	server, err := startChild("redis-server", cmd, filepath.Join(dir, "redis.log"), syscall.SIGTERM)
	if err != nil {
		return nil, err
	}
	client := redisClient(addr, password)
	defer client.Close() //nolint:errcheck // nothing is pending
	// Another server on the same address would answer too, while ours is about to fail.
	ours := fmt.Sprintf("process_id:%d\r\n", server.process.Pid)
	var dialer net.Dialer
	if err := server.waitReady(ctx, func(ctx context.Context) error {
		conn, err := dialer.DialContext(ctx, "tcp", addr.String()) // the client's pool would wait between its tries
		if err != nil {
			return err
		}
		_ = conn.Close()
		info, err := client.Info(ctx, "server").Result()
		if err == nil && !strings.Contains(info, ours) {
			err = errors.New("another server answers: address already in use")
		}
		return err
	}); err != nil {
		return nil, errors.Join(err, server.stop(stopGrace, syscall.SIGTERM))
	}
	return server, nil
}

func redisClient(addr netip.AddrPort, password string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr.String(), Password: password, PoolSize: 1, MaxRetries: -1, DialTimeout: 5 * time.Second,
		DisableIdentity: true,
	})
}

func (r *Redis) seed(ctx context.Context, cfg RedisConfig) error {
	if len(cfg.Seed) == 0 {
		return nil
	}
	client := redisClient(r.addr, cfg.Password)
	defer client.Close() //nolint:errcheck // every command was answered
	for key, value := range cfg.Seed {
		if err := client.Set(ctx, key, value, 0).Err(); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}

// redisVersion asks the program for its version. Without an answer it returns "Redis".
func redisVersion(ctx context.Context, bin string) string {
	out, err := exec.CommandContext(ctx, bin, "--version").Output()
	if err != nil {
		return "Redis"
	}
	for word := range strings.FieldsSeq(string(out)) {
		if v, ok := strings.CutPrefix(word, "v="); ok {
			return "Redis " + v
		}
	}
	return "Redis"
}
