// The dradriver command makes the GPUs of a scenario file allocatable through dynamic resource allocation in a real
// cluster. It is for tests: what it hands to a container is the name of a device that does not exist.
//
// It registers with the kubelet as any DRA driver does, publishes its node's ResourceSlices under the names that NVIDIA's
// driver gives things, and reads the same scenario file as the fake libnvidia-ml.so, so that tests can make the scheduler
// and NVML agree about a device, or not.
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

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

func main() {
	handler := slog.NewTextHandler(os.Stderr, nil)
	slog.SetDefault(slog.New(handler))
	// The library that speaks with the kubelet logs here too.
	klog.SetSlogLogger(slog.New(handler))
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		slog.Error("DRA driver ends", "error", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("dradriver", flag.ContinueOnError)
	kubeletDir := flags.String("kubelet-dir", "/var/lib/kubelet", "directory of the kubelet, as the kubelet itself calls it")
	cdiDir := flags.String("cdi-dir", "/run/cdi", "directory in which the container runtime looks for CDI specifications")
	kubeconfig := flags.String("kubeconfig", "", "how the API server is reached (required)")
	node := flags.String("node", "", "name of the node (required)")
	scenario := flags.String("scenario", "", "scenario file, the one that FAKE_NVML_SCENARIO names (required)")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *kubeconfig == "" || *node == "" || *scenario == "" {
		return errors.New("name the API server with --kubeconfig, the node with --node and the scenario file with --scenario")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	gpus, err := load(*scenario)
	if err != nil {
		return fmt.Errorf("reading the scenario for the first time: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", *kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	prepared, err := openPrepared(filepath.Join(*kubeletDir, "plugins", driverName), *cdiDir)
	if err != nil {
		return err
	}
	driver := &Driver{Node: *node, Client: client, Prepared: prepared, Registry: filepath.Join(*kubeletDir, "plugins_registry")}
	if err := driver.Start(ctx, gpus); err != nil {
		return err
	}
	follow(ctx, *scenario, 250*time.Millisecond, driver.Update)
	driver.Stop()
	return nil
}
