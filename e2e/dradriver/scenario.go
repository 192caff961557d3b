package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// No device of a scenario can be taken for a real one.
const uuidMark = "GPU-fa4e0000-"

// The longest attribute that a ResourceSlice may carry.
const maxTextBytes = 64

// Verdict is what the scheduler is to know of a device.
type Verdict int

// The verdicts, the better first.
const (
	// Usable devices are given out.
	Usable Verdict = iota
	// Faulty devices have had an error after which a driver gives them out no more.
	Faulty
	// Lost devices do not answer the driver.
	Lost
)

// GPU is a device of the scenario as this driver publishes it.
type GPU struct {
	// Minor is its number on the node. Another device may have it after a reboot.
	Minor int
	UUID  string
	// Product is empty where the name is not text, which real libraries have returned.
	Product string
	// MemoryBytes is 0 where it is not known.
	MemoryBytes uint64
	Verdict     Verdict
}

// GPUs is the state of a node.
type GPUs struct {
	DriverVersion string
	CUDAVersion   int
	Devices       []GPU
}

// What this driver reads of a scenario. The rest is for the fake library, which also refuses unknown keys.
type scenario struct {
	DriverVersion     string `json:"driverVersion"`
	CUDADriverVersion int    `json:"cudaDriverVersion"`
	Devices           []struct {
		UUID        string          `json:"uuid"`
		Name        json.RawMessage `json:"name"`
		MemoryBytes uint64          `json:"memoryBytes"`
		MIG         struct {
			Current string `json:"current"`
		} `json:"mig"`
		State  string `json:"state"`
		Plugin string `json:"plugin"`
	} `json:"devices"`
}

func load(path string) (GPUs, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return GPUs{}, err
	}
	gpus, err := parse(text)
	if err != nil {
		return GPUs{}, fmt.Errorf("scenario %s: %w", path, err)
	}
	return gpus, nil
}

// follow calls update with each new state of the file until the context ends. What cannot be read changes nothing.
func follow(ctx context.Context, path string, every time.Duration, update func(GPUs)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	// None, so that a change between the first load and now is not missed.
	var last []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		text, err := os.ReadFile(path)
		if err != nil || bytes.Equal(text, last) {
			continue
		}
		last = text
		gpus, err := parse(text)
		if err != nil {
			slog.Warn("keeping the devices as they were", "scenario", path, "error", err)
			continue
		}
		update(gpus)
	}
}

func parse(text []byte) (GPUs, error) {
	var read scenario
	if err := json.Unmarshal(text, &read); err != nil {
		return GPUs{}, err
	}
	gpus := GPUs{DriverVersion: read.DriverVersion, CUDAVersion: read.CUDADriverVersion}
	known := map[string]int{}
	for minor, device := range read.Devices {
		if !strings.HasPrefix(device.UUID, uuidMark) || len(device.UUID) > maxTextBytes {
			return GPUs{}, fmt.Errorf("UUID %q does not begin with %s or has more than %d bytes", device.UUID, uuidMark, maxTextBytes)
		}
		verdict, published, err := told(device.State, device.Plugin)
		if err != nil {
			return GPUs{}, fmt.Errorf("device %s: %w", device.UUID, err)
		}
		// A divided GPU is not given out as a whole, and a scenario names no instances of it.
		if !published || device.MIG.Current == "Enabled" {
			continue
		}
		// A driver keeps its devices by UUID: of two with the same, the worse counts.
		if first, twice := known[device.UUID]; twice {
			gpus.Devices[first].Verdict = max(gpus.Devices[first].Verdict, verdict)
			continue
		}
		known[device.UUID] = len(gpus.Devices)
		gpus.Devices = append(gpus.Devices, GPU{
			Minor: minor, UUID: device.UUID, Product: product(device.Name), MemoryBytes: device.MemoryBytes, Verdict: verdict,
		})
	}
	return gpus, nil
}

func product(name json.RawMessage) string {
	var text string
	if err := json.Unmarshal(name, &text); err != nil || len(text) > maxTextBytes {
		return ""
	}
	return text
}

// told is what the scheduler hears of a device; false if it does not hear of it.
func told(state, plugin string) (Verdict, bool, error) {
	switch plugin {
	case "", "Follow":
	case "Healthy":
		return Usable, true, nil
	case "Unhealthy":
		return Faulty, true, nil
	case "Absent":
		return Usable, false, nil
	default:
		return Usable, false, fmt.Errorf("plugin is %q; it may be Follow, Healthy, Unhealthy or Absent", plugin)
	}
	switch state {
	case "", "Healthy":
		return Usable, true, nil
	case "Lost":
		return Lost, true, nil
	default:
		return Usable, false, fmt.Errorf("state is %q; it may be Healthy or Lost", state)
	}
}
