package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

// Driver serves the GPUs of one node to one kubelet.
type Driver struct {
	// Node is the node's name, and that of its pool of devices.
	Node   string
	Client kubernetes.Interface
	// Prepared is what was handed out.
	Prepared *Prepared
	// Registry is the folder that the kubelet watches for drivers.
	Registry string

	helper *kubeletplugin.Helper
	mutex  sync.Mutex
	gpus   GPUs
	// An API server that does not serve device taints drops them silently: a tainted device would look usable.
	taintsDropped bool
}

// Start registers with the kubelet and publishes the devices, until the context ends or Stop is called.
func (d *Driver) Start(ctx context.Context, gpus GPUs) error {
	if err := os.MkdirAll(d.Registry, 0o755); err != nil {
		return err
	}
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(driverName),
		kubeletplugin.NodeName(d.Node),
		kubeletplugin.KubeClient(d.Client),
		kubeletplugin.RegistrarDirectoryPath(d.Registry),
		kubeletplugin.PluginDataDirectoryPath(d.Prepared.folder))
	if err != nil {
		return fmt.Errorf("offering %s to the kubelet in %s: %w", driverName, d.Registry, err)
	}
	d.helper = helper
	d.Update(gpus)
	return nil
}

// Stop ends what Start began. What was prepared stays prepared.
func (d *Driver) Stop() { d.helper.Stop() }

// Update publishes a new state.
func (d *Driver) Update(gpus GPUs) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.gpus = gpus
	d.publish()
}

// publish needs the mutex.
func (d *Driver) publish() {
	published := resources(d.Node, d.gpus, !d.taintsDropped)
	if err := d.helper.PublishResources(context.Background(), published); err != nil {
		slog.Warn("publishing the devices", "error", err)
	}
}

// HandleError hears of what went wrong while slices are published. It is tried again in any case.
func (d *Driver) HandleError(_ context.Context, err error, message string) {
	slog.Warn(message, "error", err)
	var dropped *resourceslice.DroppedFieldsError
	if !errors.As(err, &dropped) || !slices.Contains(dropped.DisabledFeatures(), "DRADeviceTaints") {
		return
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if !d.taintsDropped {
		slog.Info("the API server serves no device taints; a device that may not be given out leaves the slice instead")
		d.taintsDropped = true
		d.publish()
	}
}

// PrepareResourceClaims makes the devices of claims known to the container runtime.
func (d *Driver) PrepareResourceClaims(_ context.Context, claims []*resourceapi.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		prepared, err := d.prepare(claim)
		results[claim.UID] = kubeletplugin.PrepareResult{Err: err, Devices: prepared}
	}
	return results, nil
}

func (d *Driver) prepare(claim *resourceapi.ResourceClaim) ([]kubeletplugin.Device, error) {
	record, known := d.Prepared.Get(claim.UID)
	if !known {
		record = Claim{Namespace: claim.Namespace, Name: claim.Name}
		for _, result := range claim.Status.Allocation.Devices.Results {
			if result.Driver != driverName {
				continue
			}
			held, err := d.take(result)
			if err != nil {
				return nil, err
			}
			record.Devices = append(record.Devices, held)
		}
		if err := d.Prepared.Add(claim.UID, record); err != nil {
			return nil, fmt.Errorf("recording the claim: %w", err)
		}
	}
	var devices []kubeletplugin.Device
	for _, held := range record.Devices {
		devices = append(devices, kubeletplugin.Device{
			Requests: []string{held.Request}, PoolName: held.Pool, DeviceName: held.Device,
			CDIDeviceIDs: []string{cdiName(claim.UID, held)},
		})
	}
	return devices, nil
}

func (d *Driver) take(result resourceapi.DeviceRequestAllocationResult) (Held, error) {
	if result.AdminAccess != nil && *result.AdminAccess {
		return Held{}, fmt.Errorf("device %s is asked for with admin access, which this driver does not give", result.Device)
	}
	for _, gpu := range d.gpus.Devices {
		if result.Pool != d.Node || deviceName(gpu) != result.Device {
			continue
		}
		if gpu.Verdict != Usable {
			return Held{}, fmt.Errorf("device %s (%s) may not be given out any more", result.Device, gpu.UUID)
		}
		if holder, held := d.Prepared.HolderOf(gpu.UUID); held {
			return Held{}, fmt.Errorf("device %s (%s) is held by the claim %s/%s", result.Device, gpu.UUID, holder.Namespace, holder.Name)
		}
		return Held{Request: result.Request, Pool: result.Pool, Device: result.Device, Minor: gpu.Minor, UUID: gpu.UUID}, nil
	}
	return Held{}, fmt.Errorf("device %s of the pool %s is not in the scenario", result.Device, result.Pool)
}

// UnprepareResourceClaims undoes PrepareResourceClaims, also for claims that are long gone.
func (d *Driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	results := map[types.UID]error{}
	for _, claim := range claims {
		results[claim.UID] = d.Prepared.Remove(claim.UID)
	}
	return results, nil
}
