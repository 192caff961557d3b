package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// The kernel's limit for the path of a socket, its final zero included.
const maxSocketPathBytes = 107

// Plugin serves Devices to one kubelet.
type Plugin struct {
	pluginapi.UnimplementedDevicePluginServer

	// Directory holds the kubelet's socket and, beside it, the plugin's own.
	Directory string
	// Resource is the extended resource that the devices are.
	Resource string
	Devices  *Devices
	// Poll is how often the kubelet is looked for.
	Poll time.Duration
}

// Run serves until the context ends, and registers again with every kubelet that appears.
func (p *Plugin) Run(ctx context.Context) error {
	if length := len(p.socket()); length > maxSocketPathBytes {
		return fmt.Errorf("the socket %s has %d bytes, at most %d are possible; choose a shorter --kubelet-dir", p.socket(), length, maxSocketPathBytes)
	}
	for ctx.Err() == nil {
		if err := p.serveOneKubelet(ctx); err != nil {
			slog.Warn("trying again", "error", err)
		}
		pause(ctx, p.Poll)
	}
	// Left behind, it would let the kubelet believe that a plugin is still there.
	if err := os.Remove(p.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (p *Plugin) socket() string {
	return filepath.Join(p.Directory, "koinon-test-"+strings.ReplaceAll(p.Resource, "/", "_")+".sock")
}

func (p *Plugin) kubeletSocket() string {
	return filepath.Join(p.Directory, filepath.Base(pluginapi.KubeletSocket))
}

// serveOneKubelet returns when the kubelet has gone: a kubelet that starts removes every socket of the directory and
// makes its own anew, and it knows no plugin but those that register then.
func (p *Plugin) serveOneKubelet(ctx context.Context) error {
	kubelet := identityOf(p.kubeletSocket())
	for kubelet == (fileIdentity{}) {
		if !pause(ctx, p.Poll) {
			return nil
		}
		kubelet = identityOf(p.kubeletSocket())
	}
	if err := os.Remove(p.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", p.socket())
	if err != nil {
		return err
	}
	// A successor may have made its socket by the time this one closes.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	own := identityOf(p.socket())
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, p)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer server.Stop()

	// The kubelet dials back within this call, so the plugin serves already.
	if err := p.register(ctx); err != nil {
		return fmt.Errorf("registering %s with %s: %w", p.Resource, p.kubeletSocket(), err)
	}
	slog.Info("registered", "resource", p.Resource, "kubelet", p.kubeletSocket())
	for {
		select {
		case err := <-served:
			return err
		default:
		}
		if !pause(ctx, p.Poll) {
			return nil
		}
		if identityOf(p.kubeletSocket()) != kubelet || identityOf(p.socket()) != own {
			slog.Info("the kubelet was restarted")
			return nil
		}
	}
}

func (p *Plugin) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+p.kubeletSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = pluginapi.NewRegistrationClient(connection).Register(ctx, &pluginapi.RegisterRequest{
		Version:      pluginapi.Version,
		Endpoint:     filepath.Base(p.socket()),
		ResourceName: p.Resource,
		Options:      &pluginapi.DevicePluginOptions{},
	})
	return err
}

// GetDevicePluginOptions asks for none of the optional calls.
func (p *Plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{}, nil
}

// ListAndWatch sends the devices now and after each change.
func (p *Plugin) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		devices, changed := p.Devices.Now()
		if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Allocate names the devices to the container, as NVIDIA's plugin does.
func (p *Plugin) Allocate(_ context.Context, request *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	response := &pluginapi.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		for _, id := range container.DevicesIds {
			switch health, known := p.Devices.Health(id); {
			case !known:
				return nil, status.Errorf(codes.NotFound, "device %s is not in the scenario", id)
			case health != pluginapi.Healthy:
				return nil, status.Errorf(codes.FailedPrecondition, "device %s is %s", id, health)
			}
		}
		response.ContainerResponses = append(response.ContainerResponses, &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}

// pause returns false if the context ended meanwhile.
func pause(ctx context.Context, length time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(length):
		return true
	}
}
