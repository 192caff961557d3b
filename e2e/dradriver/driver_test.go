package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/ptr"
)

const (
	node   = "bilbao"
	first  = "GPU-fa4e0000-0000-4000-8000-000000000001"
	second = "GPU-fa4e0000-0000-4000-8000-000000000002"
	third  = "GPU-fa4e0000-0000-4000-8000-000000000003"
)

// machine is a node with a driver on it, and an API server that stores and answers but does nothing by itself.
type machine struct {
	client   *fake.Clientset
	folder   string
	scenario string
	stop     func()
}

type gpu struct {
	UUID   string `json:"uuid"`
	Name   string `json:"name,omitempty"`
	State  string `json:"state,omitempty"`
	Plugin string `json:"plugin,omitempty"`
}

func newMachine(t *testing.T, taintsServed bool, gpus ...gpu) *machine {
	t.Helper()
	// Not t.TempDir, whose path is too long for a socket.
	folder, err := os.MkdirTemp("", "dra")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, UID: "node-uid"}})
	number := 0
	written := func(action clienttesting.Action) (bool, runtime.Object, error) {
		slice := action.(clienttesting.CreateAction).GetObject().(*resourceapi.ResourceSlice)
		if slice.Name == "" {
			number++
			slice.Name = fmt.Sprintf("%s%d", slice.GenerateName, number)
		}
		if !taintsServed {
			for i := range slice.Spec.Devices {
				slice.Spec.Devices[i].Taints = nil
			}
		}
		return false, nil, nil
	}
	client.PrependReactor("create", "resourceslices", written)
	client.PrependReactor("update", "resourceslices", written)
	m := &machine{client: client, folder: folder, scenario: filepath.Join(folder, "scenario.json")}
	m.becomes(t, gpus...)
	m.start(t)
	return m
}

func (m *machine) start(t *testing.T) {
	t.Helper()
	prepared, err := openPrepared(filepath.Join(m.folder, "plugins", driverName), m.cdi())
	if err != nil {
		t.Fatal(err)
	}
	gpus, err := load(m.scenario)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	driver := &Driver{Node: node, Client: m.client, Prepared: prepared, Registry: filepath.Join(m.folder, "plugins_registry")}
	if err := driver.Start(ctx, gpus); err != nil {
		t.Fatal(err)
	}
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		follow(ctx, m.scenario, 10*time.Millisecond, driver.Update)
	}()
	stopped := false
	m.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-followed
			driver.Stop()
		}
	}
	t.Cleanup(m.stop)
}

func (m *machine) cdi() string { return filepath.Join(m.folder, "cdi") }

func (m *machine) becomes(t *testing.T, gpus ...gpu) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"driverVersion": "580.95.05-0.0-fake", "cudaDriverVersion": 13000, "devices": gpus})
	if err != nil {
		t.Fatal(err)
	}
	m.becomesText(t, string(text))
}

func (m *machine) becomesText(t *testing.T, text string) {
	t.Helper()
	// A rename, so that a reader never sees half a file.
	if err := os.WriteFile(m.scenario+".fresh", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.scenario+".fresh", m.scenario); err != nil {
		t.Fatal(err)
	}
}

// published waits until the API server has exactly these devices: "gpu-0 <uuid>", with the keys of taints behind it.
func (m *machine) published(t *testing.T, wanted ...string) []resourceapi.ResourceSlice {
	t.Helper()
	var last []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		list, err := m.client.ResourceV1().ResourceSlices().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		last = []string{}
		for _, slice := range list.Items {
			for _, device := range slice.Spec.Devices {
				said := device.Name + " " + *device.Attributes["uuid"].StringValue
				for _, taint := range device.Taints {
					said += " " + taint.Key + ":" + string(taint.Effect)
				}
				last = append(last, said)
			}
		}
		if len(list.Items) > 0 && slices.Equal(last, wanted) {
			return list.Items
		}
	}
	t.Fatalf("wanted\n%s\nlast published\n%s", strings.Join(wanted, "\n"), strings.Join(last, "\n"))
	return nil
}

// kubelet finds the driver as a kubelet does, by the socket in the folder that it watches.
func (m *machine) kubelet(t *testing.T) drapb.DRAPluginClient {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(m.folder, "plugins_registry", "*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("found the sockets %v, %v", sockets, err)
	}
	registrar := registerapi.NewRegistrationClient(dial(t, sockets[0]))
	info, err := registrar.GetInfo(context.Background(), &registerapi.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Type != registerapi.DRAPlugin || info.Name != driverName || !slices.Contains(info.SupportedVersions, drapb.DRAPluginService) {
		t.Fatalf("it registers as %v", info)
	}
	if _, err := registrar.NotifyRegistrationStatus(context.Background(), &registerapi.RegistrationStatus{PluginRegistered: true}); err != nil {
		t.Fatal(err)
	}
	return drapb.NewDRAPluginClient(dial(t, info.Endpoint))
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

// allocated stores a claim to which the scheduler gave these devices.
func (m *machine) allocated(t *testing.T, name string, devices ...string) *drapb.Claim {
	t.Helper()
	claim := &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "jobs", Name: name, UID: types.UID("uid-of-" + name)},
		Status:     resourceapi.ResourceClaimStatus{Allocation: &resourceapi.AllocationResult{}},
	}
	for _, device := range devices {
		result := resourceapi.DeviceRequestAllocationResult{Request: "gpus", Driver: driverName, Pool: node, Device: device}
		if admin, found := strings.CutPrefix(device, "admin:"); found {
			result.Device, result.AdminAccess = admin, ptr.To(true)
		}
		claim.Status.Allocation.Devices.Results = append(claim.Status.Allocation.Devices.Results, result)
	}
	if _, err := m.client.ResourceV1().ResourceClaims("jobs").Create(context.Background(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &drapb.Claim{Namespace: "jobs", Name: name, UID: string(claim.UID)}
}

// prepare returns what the kubelet would tell the container runtime, or the error.
func prepare(t *testing.T, driver drapb.DRAPluginClient, claim *drapb.Claim) ([]string, string) {
	t.Helper()
	response, err := driver.NodePrepareResources(context.Background(), &drapb.NodePrepareResourcesRequest{Claims: []*drapb.Claim{claim}})
	if err != nil {
		t.Fatal(err)
	}
	result := response.Claims[claim.UID]
	names := []string{}
	for _, device := range result.Devices {
		if !slices.Equal(device.RequestNames, []string{"gpus"}) || device.PoolName != node {
			t.Errorf("prepared %v", device)
		}
		names = append(names, device.CDIDeviceIDs...)
	}
	return names, result.Error
}

func unprepare(t *testing.T, driver drapb.DRAPluginClient, claim *drapb.Claim) {
	t.Helper()
	response, err := driver.NodeUnprepareResources(context.Background(), &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{claim}})
	if err != nil {
		t.Fatal(err)
	}
	if result := response.Claims[claim.UID]; result == nil || result.Error != "" {
		t.Fatalf("unprepared: %v", result)
	}
}

// environment is what a container with these CDI devices gets, by the specifications that a runtime would read.
func (m *machine) environment(t *testing.T, names []string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.cdi(), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := []string{}
	for _, file := range files {
		var spec struct {
			Kind    string      `json:"kind"`
			Devices []cdiDevice `json:"devices"`
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &spec); err != nil {
			t.Fatal(err)
		}
		for _, device := range spec.Devices {
			if slices.Contains(names, spec.Kind+"="+device.Name) {
				found = append(found, device.Edits.Env...)
			}
		}
	}
	return found
}

func TestEveryDeviceIsPublishedUnderTheNamesOfNvidiasDriver(t *testing.T) {
	m := newMachine(t, true, gpu{UUID: first, Name: "NVIDIA H100 80GB HBM3"}, gpu{UUID: second})
	slice := m.published(t, "gpu-0 "+first, "gpu-1 "+second)[0]
	if slice.Spec.Driver != "gpu.nvidia.com" || *slice.Spec.NodeName != node || slice.Spec.Pool.Name != node {
		t.Errorf("published %v", slice.Spec)
	}
	if len(slice.OwnerReferences) != 1 || slice.OwnerReferences[0].UID != "node-uid" {
		t.Errorf("it is owned by %v: it would outlive its node", slice.OwnerReferences)
	}
	attributes := slice.Spec.Devices[0].Attributes
	for name, wanted := range map[resourceapi.QualifiedName]string{
		"type": "gpu", "uuid": first, "productName": "NVIDIA H100 80GB HBM3", "brand": "Nvidia", "architecture": "Hopper",
	} {
		if value := attributes[name].StringValue; value == nil || *value != wanted {
			t.Errorf("%s is not %q", name, wanted)
		}
	}
	for name, wanted := range map[resourceapi.QualifiedName]string{
		"cudaComputeCapability": "9.0.0", "driverVersion": "580.95.5-0.0-fake", "cudaDriverVersion": "13.0.0",
	} {
		if value := attributes[name].VersionValue; value == nil || *value != wanted {
			t.Errorf("%s is not %q", name, wanted)
		}
	}
	if unknown := slice.Spec.Devices[1]; len(unknown.Capacity) != 0 || len(unknown.Attributes) != 5 {
		t.Errorf("made up of a device without a name: %v", unknown)
	}
}

func TestALostDeviceIsTaintedAndComesBackClean(t *testing.T) {
	m := newMachine(t, true, gpu{UUID: first}, gpu{UUID: second})
	m.published(t, "gpu-0 "+first, "gpu-1 "+second)
	m.becomes(t, gpu{UUID: first, State: "Lost"}, gpu{UUID: second, Plugin: "Unhealthy"}, gpu{UUID: third, Plugin: "Absent"})
	m.published(t, "gpu-0 "+first+" gpu.nvidia.com/gpu-lost:NoSchedule", "gpu-1 "+second+" gpu.nvidia.com/xid:NoSchedule")
	m.becomes(t, gpu{UUID: first}, gpu{UUID: second})
	m.published(t, "gpu-0 "+first, "gpu-1 "+second)
}

func TestWhereNoTaintsAreServedALostDeviceLeavesTheSlice(t *testing.T) {
	m := newMachine(t, false, gpu{UUID: first}, gpu{UUID: second})
	m.published(t, "gpu-0 "+first, "gpu-1 "+second)
	m.becomes(t, gpu{UUID: first, State: "Lost"}, gpu{UUID: second})
	m.published(t, "gpu-1 "+second)
	m.becomes(t, gpu{UUID: first}, gpu{UUID: second})
	m.published(t, "gpu-0 "+first, "gpu-1 "+second)
}

func TestAPreparedClaimNamesItsDevicesToTheContainer(t *testing.T) {
	m := newMachine(t, true, gpu{UUID: first}, gpu{UUID: second}, gpu{UUID: third})
	driver := m.kubelet(t)
	claim := m.allocated(t, "a", "gpu-2", "gpu-0")
	names, refusal := prepare(t, driver, claim)
	if refusal != "" {
		t.Fatal(refusal)
	}
	got := m.environment(t, names)
	if !slices.Equal(got, []string{"GPU_DEVICE_2=" + third, "GPU_DEVICE_0=" + first}) {
		t.Errorf("the container gets %v", got)
	}
	unprepare(t, driver, claim)
	unprepare(t, driver, claim)
	if left := m.environment(t, names); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if again, refusal := prepare(t, driver, m.allocated(t, "b", "gpu-0")); refusal != "" || len(again) != 1 {
		t.Errorf("a device that was given back is refused: %s", refusal)
	}
}

func TestADeviceIsHandedOutOnceAndOnlyIfItWorks(t *testing.T) {
	m := newMachine(t, true, gpu{UUID: first}, gpu{UUID: second, State: "Lost"})
	driver := m.kubelet(t)
	if _, refusal := prepare(t, driver, m.allocated(t, "a", "gpu-0")); refusal != "" {
		t.Fatal(refusal)
	}
	for device, reason := range map[string]string{
		"gpu-0": "held by the claim jobs/a", "gpu-1": "may not be given out", "gpu-7": "not in the scenario", "admin:gpu-0": "admin access",
	} {
		names, refusal := prepare(t, driver, m.allocated(t, "for-"+strings.ReplaceAll(device, ":", "-"), device))
		if !strings.Contains(refusal, reason) || len(names) != 0 {
			t.Errorf("%s was prepared as %v, refused with %q", device, names, refusal)
		}
	}
}

func TestWhatWasPreparedSurvivesTheDriver(t *testing.T) {
	m := newMachine(t, true, gpu{UUID: first}, gpu{UUID: second})
	claim := m.allocated(t, "a", "gpu-0")
	names, refusal := prepare(t, m.kubelet(t), claim)
	if refusal != "" {
		t.Fatal(refusal)
	}
	m.stop()
	// Meanwhile the machine forgot its volatile files, a claim of which nothing is known was left over, and the device died.
	if err := os.RemoveAll(m.cdi()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.cdi(), 0o755); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(m.cdi(), specPrefix+"stray.json")
	if err := os.WriteFile(stray, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.becomes(t, gpu{UUID: first, State: "Lost"}, gpu{UUID: second})
	m.start(t)
	driver := m.kubelet(t)
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("the stray specification is still there: %v", err)
	}
	if got := m.environment(t, names); !slices.Equal(got, []string{"GPU_DEVICE_0=" + first}) {
		t.Errorf("after the restart the container gets %v", got)
	}
	if again, refusal := prepare(t, driver, claim); refusal != "" || !slices.Equal(again, names) {
		t.Errorf("the running pod's claim is prepared as %v, %q", again, refusal)
	}
	m.becomes(t, gpu{UUID: first}, gpu{UUID: second})
	m.published(t, "gpu-0 "+first, "gpu-1 "+second)
	if _, refusal := prepare(t, driver, m.allocated(t, "b", "gpu-0")); !strings.Contains(refusal, "held by the claim jobs/a") {
		t.Errorf("the restarted driver handed the device out again: %q", refusal)
	}
}

func TestAScenarioThatCannotBeReadChangesNothing(t *testing.T) {
	m := newMachine(t, true, gpu{UUID: first})
	m.published(t, "gpu-0 "+first)
	m.becomesText(t, `{"devices": [`)
	time.Sleep(200 * time.Millisecond)
	m.published(t, "gpu-0 "+first)
	m.becomes(t)
	m.published(t)
}

func TestManyDevicesArePublishedInSeveralSlices(t *testing.T) {
	gpus := []gpu{}
	wanted := []string{}
	for i := range 130 {
		uuid := fmt.Sprintf("GPU-fa4e0000-0000-4000-8000-%012d", i)
		gpus, wanted = append(gpus, gpu{UUID: uuid}), append(wanted, fmt.Sprintf("gpu-%d %s", i, uuid))
	}
	m := newMachine(t, true, gpus...)
	if slices := m.published(t, wanted...); len(slices) != 2 {
		t.Errorf("%d slices", len(slices))
	}
}
