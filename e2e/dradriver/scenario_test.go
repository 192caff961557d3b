package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestTwoDevicesWithOneUUIDAreOneAndTheWorseCounts(t *testing.T) {
	gpus, err := parse([]byte(`{"devices": [{"uuid": "GPU-fa4e0000-1", "state": "Lost"}, {"uuid": "GPU-fa4e0000-1"}]}`))
	if err != nil || len(gpus.Devices) != 1 || gpus.Devices[0].Verdict != Lost {
		t.Errorf("got %v, %v", gpus, err)
	}
}

func TestADividedGPUIsNotPublishedAsAWhole(t *testing.T) {
	gpus, err := parse([]byte(`{"devices": [{"uuid": "GPU-fa4e0000-1", "mig": {"current": "Enabled", "pending": "Enabled"}}, {"uuid": "GPU-fa4e0000-2"}]}`))
	if err != nil || len(gpus.Devices) != 1 || deviceName(gpus.Devices[0]) != "gpu-1" {
		t.Errorf("got %v, %v", gpus, err)
	}
}

func TestANameThatIsNotTextIsLeftOut(t *testing.T) {
	gpus, err := parse([]byte(`{"devices": [{"uuid": "GPU-fa4e0000-1", "name": {"hex": "ff00"}}]}`))
	if err != nil || gpus.Devices[0].Product != "" {
		t.Errorf("got %v, %v", gpus, err)
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
		if gpus, err := load(file); err != nil || len(gpus.Devices) == 0 {
			t.Errorf("%s: %v, %v", file, gpus, err)
		}
	}
}

func TestVersionsBecomeWhatTheAPITakes(t *testing.T) {
	for version, wanted := range map[string]string{
		"580.95.05": "580.95.5", "0.0-fake": "0.0.0-fake", "570": "570.0.0", "": "", "1.2.3.4": "", "a.b": "",
	} {
		if got, ok := semantic(version); ok != (wanted != "") || (ok && got != wanted) {
			t.Errorf("%q became %q, %v", version, got, ok)
		}
	}
}
