//go:build containerd16

// Package gopath runs the suite of containerd 1.6 as Debian packages it, where no Go module proxy is to be had.
package gopath

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"google.golang.org/grpc"
	"testsuite"
)

var socket = flag.String("socket", os.Getenv("SNAPSHOTTER_SOCKET"), "socket of the snapshotter under test")

// TestSnapshotter is the twin of the one in the parent directory.
func TestSnapshotter(t *testing.T) {
	if *socket == "" {
		t.Skip("no -socket and no SNAPSHOTTER_SOCKET")
	}
	if os.Getuid() != 0 {
		t.Skip("the suite mounts; it must be root")
	}
	conn, err := grpc.Dial("unix://"+*socket, grpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	remote := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "outcrop")
	var subtests int64
	testsuite.SnapshotterSuite(t, "overlayfs", func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
		return prefixed{remote, fmt.Sprintf("suite16/%d/", atomic.AddInt64(&subtests, 1))}, nil, nil
	})
}

// prefixed gives one subtest its own names in a shared snapshotter, as containerd's metadata store does.
type prefixed struct {
	inner  snapshots.Snapshotter
	prefix string
}

var namedValue = regexp.MustCompile(`\b(name|parent)(==|!=)([^,"]+)`)

func (p prefixed) in(name string) string {
	if name == "" {
		return ""
	}
	return p.prefix + name
}

func (p prefixed) out(info snapshots.Info) snapshots.Info {
	info.Name = strings.TrimPrefix(info.Name, p.prefix)
	info.Parent = strings.TrimPrefix(info.Parent, p.prefix)
	return info
}

func (p prefixed) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := p.inner.Stat(ctx, p.in(key))
	return p.out(info), err
}

func (p prefixed) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	info.Name, info.Parent = p.in(info.Name), p.in(info.Parent)
	info, err := p.inner.Update(ctx, info, paths...)
	return p.out(info), err
}

func (p prefixed) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return p.inner.Usage(ctx, p.in(key))
}

func (p prefixed) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return p.inner.Mounts(ctx, p.in(key))
}

func (p prefixed) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return p.inner.Prepare(ctx, p.in(key), p.in(parent), opts...)
}

func (p prefixed) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return p.inner.View(ctx, p.in(key), p.in(parent), opts...)
}

func (p prefixed) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return p.inner.Commit(ctx, p.in(name), p.in(key), opts...)
}

func (p prefixed) Remove(ctx context.Context, key string) error {
	return p.inner.Remove(ctx, p.in(key))
}

func (p prefixed) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	own := make([]string, len(filters))
	for i, filter := range filters {
		own[i] = namedValue.ReplaceAllString(filter, "${1}${2}"+p.prefix+"${3}")
	}
	return p.inner.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		if !strings.HasPrefix(info.Name, p.prefix) {
			return nil
		}
		return fn(ctx, p.out(info))
	}, own...)
}

func (p prefixed) Close() error { return p.inner.Close() }
