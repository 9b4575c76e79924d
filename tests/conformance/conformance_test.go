package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var socket = flag.String("socket", os.Getenv("SNAPSHOTTER_SOCKET"), "socket of the snapshotter under test")

// The suite leaves out the rename of a lower directory only for a snapshotter of this name; without overlayfs'
// redirect_dir that rename is EXDEV for every overlay snapshotter.
const suiteName = "overlayfs"

func dial(t *testing.T) snapshots.Snapshotter {
	t.Helper()
	if *socket == "" {
		t.Skip("no -socket and no SNAPSHOTTER_SOCKET")
	}
	if os.Getuid() != 0 {
		t.Skip("the suite mounts; it must be root")
	}
	conn, err := grpc.NewClient("unix://"+*socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "outcrop")
}

// TestSnapshotter drives the socket as containerd's proxy plugin does.
func TestSnapshotter(t *testing.T) {
	remote := dial(t)
	var subtests atomic.Int64
	testsuite.SnapshotterSuite(t, suiteName, func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
		return prefixed{remote, fmt.Sprintf("suite/%d/", subtests.Add(1))}, nil, nil
	})
}

// TestSnapshotterBelowMetadata puts containerd's metadata store in between, garbage collection included.
func TestSnapshotterBelowMetadata(t *testing.T) {
	remote := dial(t)
	testsuite.SnapshotterSuite(t, suiteName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		store, err := bolt.Open(filepath.Join(root, "metadata.db"), 0600, nil)
		if err != nil {
			return nil, nil, err
		}
		blobs, err := local.NewStore(filepath.Join(root, "content"))
		if err != nil {
			return nil, nil, err
		}
		// Each store numbers its keys from 1; all share one backend.
		own := prefixed{remote, fmt.Sprintf("metadata-%s/", filepath.Base(filepath.Dir(root)))}
		db := metadata.NewDB(store, blobs, map[string]snapshots.Snapshotter{"outcrop": own})
		if err := db.Init(ctx); err != nil {
			return nil, nil, err
		}
		return db.Snapshotter("outcrop"), store.Close, nil
	})
}

// TestRefAcrossNamespaces is the flow of containerd's TestSnapshotterWithRef over the socket, with its collector:
// a layer that one namespace unpacked is found by another, and is gone from the backend when all have dropped it.
func TestRefAcrossNamespaces(t *testing.T) {
	t.Run("SharedAndCollected", refAcrossNamespaces)
}

func refAcrossNamespaces(t *testing.T) {
	remote := dial(t)
	store, err := bolt.Open(filepath.Join(t.TempDir(), "metadata.db"), 0600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	blobs, err := local.NewStore(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	own := prefixed{remote, "ref-test/"}
	db := metadata.NewDB(store, blobs, map[string]snapshots.Snapshotter{"outcrop": own})
	if err := db.Init(context.Background()); err != nil {
		t.Fatal(err)
	}
	sn := db.Snapshotter("outcrop")
	target := fmt.Sprintf("sha256:%064x", os.Getpid())
	ref := snapshots.WithLabels(map[string]string{
		"containerd.io/snapshot.ref": target,
		"containerd.io/gc.root":      "keep",
	})
	one := namespaces.WithNamespace(context.Background(), "one")
	two := namespaces.WithNamespace(context.Background(), "two")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var mounts []mount.Mount
	mounts, err = sn.Prepare(one, "tmp", "", ref)
	must(err)
	if len(mounts) != 1 {
		t.Fatalf("mounts %v", mounts)
	}
	must(sn.Commit(one, target, "tmp", ref))
	if _, err = sn.Prepare(two, "tmp", "", ref); err == nil {
		t.Fatal("the layer is there: already exists expected")
	}
	if _, err = sn.Stat(two, target); err != nil {
		t.Fatalf("the layer must be in the second namespace: %v", err)
	}
	for _, namespace := range []context.Context{one, two} {
		must(sn.Remove(namespace, target))
	}
	if _, err := db.GarbageCollect(context.Background()); err != nil {
		t.Fatal(err)
	}
	must(own.Walk(context.Background(), func(_ context.Context, info snapshots.Info) error {
		return fmt.Errorf("%s survived the collector", info.Name)
	}))
}
