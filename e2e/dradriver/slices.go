package main

import (
	"fmt"
	"strconv"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/utils/ptr"
)

const (
	// The name of NVIDIA's driver, under which DeviceClasses select its devices.
	driverName = "gpu.nvidia.com"
	// NVIDIA's taint for a device that does not answer.
	lostTaint = driverName + "/gpu-lost"
	// NVIDIA's taint for a device that had an error; its value is the error's number.
	xidTaint = driverName + "/xid"
	// "GPU has fallen off the bus."
	faultyXID = "79"
)

// generation is what all products of a name have in common. Scenarios say a device's name and memory only.
type generation struct{ word, architecture, capability string }

var generations = []generation{
	{"B200", "Blackwell", "10.0.0"},
	{"H200", "Hopper", "9.0.0"},
	{"H100", "Hopper", "9.0.0"},
	{"L40S", "Ada Lovelace", "8.9.0"},
	{"A100", "Ampere", "8.0.0"},
	{"T4", "Turing", "7.5.0"},
}

// deviceName is a device's name in its slice. It follows the minor number, as NVIDIA's does, so only the UUID stays.
func deviceName(gpu GPU) string { return "gpu-" + strconv.Itoa(gpu.Minor) }

// resources is what a node publishes. Where no taints are served, a device that may not be given out is left out.
func resources(node string, gpus GPUs, taintsServed bool) resourceslice.DriverResources {
	var devices []resourceapi.Device
	for _, gpu := range gpus.Devices {
		if gpu.Verdict == Usable || taintsServed {
			devices = append(devices, device(gpu, gpus))
		}
	}
	pool := resourceslice.Pool{}
	for len(devices) > resourceapi.ResourceSliceMaxDevices {
		pool.Slices = append(pool.Slices, resourceslice.Slice{Devices: devices[:resourceapi.ResourceSliceMaxDevices]})
		devices = devices[resourceapi.ResourceSliceMaxDevices:]
	}
	// Also without any device: an empty pool says that the driver is there.
	pool.Slices = append(pool.Slices, resourceslice.Slice{Devices: devices})
	return resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{node: pool}}
}

func device(gpu GPU, node GPUs) resourceapi.Device {
	attributes := map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
		"type":  {StringValue: ptr.To("gpu")},
		"uuid":  {StringValue: ptr.To(gpu.UUID)},
		"brand": {StringValue: ptr.To("Nvidia")},
	}
	if gpu.Product != "" {
		attributes["productName"] = resourceapi.DeviceAttribute{StringValue: ptr.To(gpu.Product)}
	}
	for _, generation := range generations {
		if strings.Contains(gpu.Product, generation.word) {
			attributes["architecture"] = resourceapi.DeviceAttribute{StringValue: ptr.To(generation.architecture)}
			attributes["cudaComputeCapability"] = resourceapi.DeviceAttribute{VersionValue: ptr.To(generation.capability)}
			break
		}
	}
	if version, ok := semantic(node.DriverVersion); ok {
		attributes["driverVersion"] = resourceapi.DeviceAttribute{VersionValue: &version}
	}
	if node.CUDAVersion > 0 {
		version := fmt.Sprintf("%d.%d.0", node.CUDAVersion/1000, node.CUDAVersion%1000/10)
		attributes["cudaDriverVersion"] = resourceapi.DeviceAttribute{VersionValue: &version}
	}
	described := resourceapi.Device{Name: deviceName(gpu), Attributes: attributes}
	if gpu.MemoryBytes > 0 {
		memory := resource.NewQuantity(int64(gpu.MemoryBytes), resource.BinarySI)
		described.Capacity = map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{"memory": {Value: *memory}}
	}
	switch gpu.Verdict {
	case Lost:
		described.Taints = []resourceapi.DeviceTaint{{Key: lostTaint, Effect: resourceapi.DeviceTaintEffectNoSchedule}}
	case Faulty:
		described.Taints = []resourceapi.DeviceTaint{{Key: xidTaint, Value: faultyXID, Effect: resourceapi.DeviceTaintEffectNoSchedule}}
	case Usable:
	}
	return described
}

// semantic is a driver's version in the form that the API takes: three numbers without leading zeros, 580.95.5 for
// 580.95.05, and what follows a hyphen.
func semantic(version string) (string, bool) {
	numbers, suffix, marked := strings.Cut(version, "-")
	parts := strings.Split(numbers, ".")
	if len(parts) > 3 {
		return "", false
	}
	for len(parts) < 3 {
		parts = append(parts, "0")
	}
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return "", false
		}
		parts[i] = strconv.FormatUint(number, 10)
	}
	whole := strings.Join(parts, ".")
	if marked {
		whole += "-" + suffix
	}
	return whole, len(whole) <= maxTextBytes
}
