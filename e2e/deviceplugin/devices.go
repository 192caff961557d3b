package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// No device of a scenario can be taken for a real one.
const uuidMark = "GPU-fa4e0000-"

// The kubelet's limit for an identifier.
const maxIDBytes = 63

// What this plugin reads of a scenario. The rest is for the fake library, which also refuses unknown keys.
type scenario struct {
	Devices []struct {
		UUID   string `json:"uuid"`
		State  string `json:"state"`
		Plugin string `json:"plugin"`
	} `json:"devices"`
}

// Devices is what the kubelet is to know. It changes when the scenario does.
type Devices struct {
	mutex   sync.Mutex
	health  map[string]string
	changed chan struct{}
}

// NewDevices knows no device yet.
func NewDevices() *Devices {
	return &Devices{health: map[string]string{}, changed: make(chan struct{})}
}

// Now returns the devices in the order of their UUIDs, and a channel that is closed once they have changed.
func (d *Devices) Now() ([]*pluginapi.Device, <-chan struct{}) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	list := make([]*pluginapi.Device, 0, len(d.health))
	for id, health := range d.health {
		list = append(list, &pluginapi.Device{ID: id, Health: health})
	}
	slices.SortFunc(list, func(a, b *pluginapi.Device) int { return strings.Compare(a.ID, b.ID) })
	return list, d.changed
}

// Health returns what the kubelet is told of one device; false if there is no such device.
func (d *Devices) Health(id string) (string, bool) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	health, known := d.health[id]
	return health, known
}

// Load takes over the scenario as it is in the file. If it cannot be read, nothing changes.
func (d *Devices) Load(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	health, err := parse(text)
	if err != nil {
		return fmt.Errorf("scenario %s: %w", path, err)
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.health = health
	close(d.changed)
	d.changed = make(chan struct{})
	return nil
}

// Follow loads the scenario again whenever its file has changed, until the context ends.
func (d *Devices) Follow(ctx context.Context, path string, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	// Zero, so that a change between the first load and now is not missed.
	var last fileIdentity
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := identityOf(path)
		if now == last {
			continue
		}
		last = now
		if err := d.Load(path); err != nil {
			slog.Warn("keeping the devices as they were", "error", err)
		}
	}
}

func parse(text []byte) (map[string]string, error) {
	var read scenario
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, err
	}
	health := map[string]string{}
	for _, device := range read.Devices {
		if !strings.HasPrefix(device.UUID, uuidMark) || len(device.UUID) > maxIDBytes {
			return nil, fmt.Errorf("UUID %q does not begin with %s or has more than %d bytes", device.UUID, uuidMark, maxIDBytes)
		}
		said, err := told(device.State, device.Plugin)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", device.UUID, err)
		}
		// The kubelet knows one device by one identifier: of two with the same, the worse counts.
		if said != "" && health[device.UUID] != pluginapi.Unhealthy {
			health[device.UUID] = said
		}
	}
	return health, nil
}

// told is the health that the kubelet hears; empty for a device that it does not hear of.
func told(state, plugin string) (string, error) {
	switch plugin {
	case "", "Follow":
	case "Healthy":
		return pluginapi.Healthy, nil
	case "Unhealthy":
		return pluginapi.Unhealthy, nil
	case "Absent":
		return "", nil
	default:
		return "", fmt.Errorf("plugin is %q; it may be Follow, Healthy, Unhealthy or Absent", plugin)
	}
	switch state {
	case "", "Healthy":
		return pluginapi.Healthy, nil
	case "Lost":
		return pluginapi.Unhealthy, nil
	default:
		return "", fmt.Errorf("state is %q; it may be Healthy or Lost", state)
	}
}

// fileIdentity tells a file from what later stands under its name. The zero value is no file.
type fileIdentity struct {
	inode            uint64
	size             int64
	changed, created int64
}

func identityOf(path string) fileIdentity {
	var found syscall.Stat_t
	if err := syscall.Stat(path, &found); err != nil {
		return fileIdentity{}
	}
	return fileIdentity{inode: found.Ino, size: found.Size, changed: found.Mtim.Nano(), created: found.Ctim.Nano()}
}
