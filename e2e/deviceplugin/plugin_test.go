package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	first  = "GPU-fa4e0000-0000-4000-8000-000000000001"
	second = "GPU-fa4e0000-0000-4000-8000-000000000002"
	third  = "GPU-fa4e0000-0000-4000-8000-000000000003"
)

// kubelet does what a kubelet does with plugins: it takes registrations, dials back, and follows the list.
type kubelet struct {
	pluginapi.UnimplementedRegistrationServer
	directory string
	server    *grpc.Server
	requests  chan *pluginapi.RegisterRequest
	lists     chan string
	plugin    chan pluginapi.DevicePluginClient
}

func startKubelet(t *testing.T, directory string) *kubelet {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(directory, "*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range sockets {
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", filepath.Join(directory, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{
		directory: directory,
		server:    grpc.NewServer(),
		requests:  make(chan *pluginapi.RegisterRequest, 16),
		lists:     make(chan string, 64),
		plugin:    make(chan pluginapi.DevicePluginClient, 16),
	}
	pluginapi.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(listener)
	t.Cleanup(k.server.Stop)
	return k
}

func (k *kubelet) Register(_ context.Context, request *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	connection, err := grpc.NewClient("unix://"+filepath.Join(k.directory, request.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	client := pluginapi.NewDevicePluginClient(connection)
	if _, err := client.GetDevicePluginOptions(context.Background(), &pluginapi.Empty{}); err != nil {
		return nil, err
	}
	go func() {
		defer connection.Close()
		stream, err := client.ListAndWatch(context.Background(), &pluginapi.Empty{})
		if err != nil {
			return
		}
		for {
			list, err := stream.Recv()
			if err != nil {
				return
			}
			said := []string{}
			for _, device := range list.Devices {
				said = append(said, device.ID+" "+device.Health)
			}
			k.lists <- strings.Join(said, "\n")
		}
	}()
	k.requests <- request
	k.plugin <- client
	return &pluginapi.Empty{}, nil
}

func within[T any](t *testing.T, what string, channel <-chan T) T {
	t.Helper()
	select {
	case value := <-channel:
		return value
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// hears waits until the kubelet was sent exactly these devices.
func (k *kubelet) hears(t *testing.T, devices ...string) {
	t.Helper()
	wanted := strings.Join(devices, "\n")
	for last := ""; ; {
		select {
		case last = <-k.lists:
			if last == wanted {
				return
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("wanted\n%s\nlast heard\n%s", wanted, last)
		}
	}
}

type node struct {
	directory, scenario string
	stop                context.CancelFunc
	ended               chan error
}

type device struct {
	UUID   string `json:"uuid"`
	State  string `json:"state,omitempty"`
	Plugin string `json:"plugin,omitempty"`
}

func startPlugin(t *testing.T, devices ...device) *node {
	t.Helper()
	// Not t.TempDir, whose path is too long for a socket.
	folder, err := os.MkdirTemp("", "dp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	ctx, stop := context.WithCancel(context.Background())
	n := &node{directory: folder, scenario: filepath.Join(folder, "scenario.json"), stop: stop, ended: make(chan error, 1)}
	n.becomes(t, devices...)
	list := NewDevices()
	if err := list.Load(n.scenario); err != nil {
		t.Fatal(err)
	}
	go list.Follow(ctx, n.scenario, 10*time.Millisecond)
	plugin := Plugin{Directory: folder, Resource: "nvidia.com/gpu", Devices: list, Poll: 20 * time.Millisecond}
	go func() { n.ended <- plugin.Run(ctx) }()
	t.Cleanup(stop)
	return n
}

func (n *node) becomes(t *testing.T, devices ...device) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"driverVersion": "0.0-fake", "devices": devices})
	if err != nil {
		t.Fatal(err)
	}
	n.becomesText(t, string(text))
}

func (n *node) becomesText(t *testing.T, text string) {
	t.Helper()
	// A rename, so that a reader never sees half a file.
	if err := os.WriteFile(n.scenario+".fresh", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.scenario+".fresh", n.scenario); err != nil {
		t.Fatal(err)
	}
}

func TestEveryDeviceOfTheScenarioIsRegisteredAndHealthy(t *testing.T) {
	n := startPlugin(t, device{UUID: first}, device{UUID: second})
	k := startKubelet(t, n.directory)
	request := within(t, "the registration", k.requests)
	if request.ResourceName != "nvidia.com/gpu" || request.Version != "v1beta1" {
		t.Errorf("registered %v", request)
	}
	k.hears(t, first+" Healthy", second+" Healthy")
}

func TestAChangeOfTheScenarioReachesTheKubelet(t *testing.T) {
	n := startPlugin(t, device{UUID: first}, device{UUID: second})
	k := startKubelet(t, n.directory)
	k.hears(t, first+" Healthy", second+" Healthy")
	n.becomes(t, device{UUID: first}, device{UUID: second, State: "Lost"}, device{UUID: third})
	k.hears(t, first+" Healthy", second+" Unhealthy", third+" Healthy")
	n.becomes(t, device{UUID: first})
	k.hears(t, first+" Healthy")
}

func TestThePluginMayDisagreeWithTheDriver(t *testing.T) {
	n := startPlugin(t,
		device{UUID: first, State: "Lost", Plugin: "Healthy"},
		device{UUID: second, Plugin: "Unhealthy"},
		device{UUID: third, Plugin: "Absent"})
	k := startKubelet(t, n.directory)
	k.hears(t, first+" Healthy", second+" Unhealthy")
}

func TestTwoDevicesWithOneUUIDAreOneAndTheWorseCounts(t *testing.T) {
	n := startPlugin(t, device{UUID: first, State: "Lost"}, device{UUID: first})
	k := startKubelet(t, n.directory)
	k.hears(t, first+" Unhealthy")
}

func TestAnAllocatedContainerIsToldItsDevices(t *testing.T) {
	n := startPlugin(t, device{UUID: first}, device{UUID: second}, device{UUID: third, State: "Lost"})
	k := startKubelet(t, n.directory)
	client := within(t, "the plugin", k.plugin)
	allocate := func(containers ...[]string) (*pluginapi.AllocateResponse, error) {
		request := &pluginapi.AllocateRequest{}
		for _, ids := range containers {
			request.ContainerRequests = append(request.ContainerRequests, &pluginapi.ContainerAllocateRequest{DevicesIds: ids})
		}
		return client.Allocate(context.Background(), request)
	}
	response, err := allocate([]string{first, second}, []string{second})
	if err != nil {
		t.Fatal(err)
	}
	for i, wanted := range []string{first + "," + second, second} {
		if got := response.ContainerResponses[i].Envs["NVIDIA_VISIBLE_DEVICES"]; got != wanted {
			t.Errorf("container %d sees %q, not %q", i, got, wanted)
		}
	}
	if _, err := allocate([]string{third}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a lost device was allocated: %v", err)
	}
	if _, err := allocate([]string{"GPU-of-nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown device was allocated: %v", err)
	}
}

func TestARestartedKubeletIsToldAgain(t *testing.T) {
	n := startPlugin(t, device{UUID: first})
	before := startKubelet(t, n.directory)
	before.hears(t, first+" Healthy")
	for range 3 {
		before.server.Stop()
		after := startKubelet(t, n.directory)
		within(t, "the registration after a restart", after.requests)
		after.hears(t, first+" Healthy")
		before = after
	}
}

func TestAScenarioThatCannotBeReadChangesNothing(t *testing.T) {
	n := startPlugin(t, device{UUID: first})
	k := startKubelet(t, n.directory)
	k.hears(t, first+" Healthy")
	n.becomesText(t, `{"devices": [`)
	select {
	case list := <-k.lists:
		t.Fatalf("the kubelet heard %q", list)
	case <-time.After(300 * time.Millisecond):
	}
	n.becomes(t, device{UUID: first, State: "Lost"})
	k.hears(t, first+" Unhealthy")
}

func TestItsSocketIsGoneAfterItsEnd(t *testing.T) {
	n := startPlugin(t, device{UUID: first})
	k := startKubelet(t, n.directory)
	k.hears(t, first+" Healthy")
	n.stop()
	if err := within(t, "the end", n.ended); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(n.directory, "koinon-test-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAScenarioThatCouldMeanARealDeviceIsRefused(t *testing.T) {
	for _, text := range []string{
		`{"devices": [{"uuid": "GPU-5ab1c3e2-0000-4000-8000-000000000001"}]}`,
		`{"devices": [{"uuid": "GPU-fa4e0000-1", "state": "Tired"}]}`,
		`{"devices": [{"uuid": "GPU-fa4e0000-1", "plugin": "Maybe"}]}`,
		`{"devices": [{"uuid": "GPU-fa4e0000-` + strings.Repeat("1", 64) + `"}]}`,
	} {
		if _, err := parse([]byte(text)); err == nil {
			t.Errorf("accepted %s", text)
		}
	}
}

func TestEveryScenarioOfTheRepositoryIsRead(t *testing.T) {
	files, err := filepath.Glob("../fake-nvml/scenarios/*.json")
	if err != nil || len(files) < 2 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		devices := NewDevices()
		if err := devices.Load(file); err != nil {
			t.Error(err)
		}
		if list, _ := devices.Now(); len(list) == 0 {
			t.Errorf("%s has no devices", file)
		}
	}
}

func TestASocketPathThatIsTooLongIsSaidSo(t *testing.T) {
	plugin := Plugin{Directory: "/" + strings.Repeat("x", 100), Resource: "nvidia.com/gpu", Devices: NewDevices(), Poll: time.Millisecond}
	if err := plugin.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "--kubelet-dir") {
		t.Errorf("got %v", err)
	}
}
