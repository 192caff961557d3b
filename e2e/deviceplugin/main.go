// The deviceplugin command makes the GPUs of a scenario file allocatable in a real kubelet. It is for tests: what it
// hands to a container is the name of a device that does not exist.
//
// It speaks the kubelet's device plugin API, v1beta1, on the kubelet's own socket, and reads the same scenario file as
// the fake libnvidia-ml.so, so that tests can make the kubelet and NVML agree about a device, or not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		slog.Error("device plugin ends", "error", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("deviceplugin", flag.ContinueOnError)
	kubeletDir := flags.String("kubelet-dir", "/var/lib/kubelet", "directory of the kubelet, which holds device-plugins/kubelet.sock")
	scenario := flags.String("scenario", "", "scenario file, the one that FAKE_NVML_SCENARIO names (required)")
	resource := flags.String("resource", "nvidia.com/gpu", "extended resource that the devices are")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *scenario == "" {
		return errors.New("name the scenario file with --scenario")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	devices := NewDevices()
	if err := devices.Load(*scenario); err != nil {
		return fmt.Errorf("reading the scenario for the first time: %w", err)
	}
	go devices.Follow(ctx, *scenario, 250*time.Millisecond)
	plugin := Plugin{
		Directory: filepath.Join(*kubeletDir, "device-plugins"),
		Resource:  *resource,
		Devices:   devices,
		Poll:      500 * time.Millisecond,
	}
	return plugin.Run(ctx)
}
