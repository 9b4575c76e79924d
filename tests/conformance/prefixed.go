// Package conformance runs containerd's own snapshotter suite against a snapshotter behind a socket.
package conformance

import (
	"context"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

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
