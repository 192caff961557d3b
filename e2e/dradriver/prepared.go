package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// The vendor and class under which NVIDIA's driver names the CDI devices of claims.
	cdiKind = "k8s." + driverName + "/claim"
	// The first version of CDI that every container runtime with CDI understands.
	cdiVersion = "0.5.0"
	specPrefix = "k8s." + driverName + "-claim_"
)

// Held is one device of a prepared claim.
type Held struct {
	Request string `json:"request"`
	Pool    string `json:"pool"`
	Device  string `json:"device"`
	Minor   int    `json:"minor"`
	UUID    string `json:"uuid"`
}

// Claim is what was prepared for one ResourceClaim.
type Claim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Devices   []Held `json:"devices"`
}

// Prepared is every prepared claim, kept in a file: a driver that starts again must know what it handed out, since the
// kubelet does not ask a second time for pods that run.
type Prepared struct {
	folder string
	cdi    string
	claims map[types.UID]Claim
}

// openPrepared reads what an earlier driver prepared, and removes CDI specifications that nothing is known of.
func openPrepared(folder, cdi string) (*Prepared, error) {
	for _, needed := range []string{folder, cdi} {
		if err := os.MkdirAll(needed, 0o755); err != nil {
			return nil, err
		}
	}
	p := &Prepared{folder: folder, cdi: cdi, claims: map[types.UID]Claim{}}
	text, err := os.ReadFile(p.file())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(text, &p.claims); err != nil {
			return nil, fmt.Errorf("reading the prepared claims in %s: %w", p.file(), err)
		}
	}
	for uid, claim := range p.claims {
		if err := p.specify(uid, claim); err != nil {
			return nil, err
		}
	}
	specs, err := filepath.Glob(filepath.Join(cdi, specPrefix+"*.json"))
	if err != nil {
		return nil, err
	}
	for _, spec := range specs {
		uid := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(spec), specPrefix), ".json")
		if _, known := p.claims[types.UID(uid)]; !known {
			if err := os.Remove(spec); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// Get returns what was prepared for a claim; false if nothing was.
func (p *Prepared) Get(uid types.UID) (Claim, bool) {
	claim, known := p.claims[uid]
	return claim, known
}

// HolderOf returns the claim that has a device; false if none has.
func (p *Prepared) HolderOf(uuid string) (Claim, bool) {
	for _, claim := range p.claims {
		for _, held := range claim.Devices {
			if held.UUID == uuid {
				return claim, true
			}
		}
	}
	return Claim{}, false
}

// Add records a claim and describes its devices to the container runtime. The record comes first: a device that is
// recorded and not used is found again, one that is used and not recorded could be handed out twice.
func (p *Prepared) Add(uid types.UID, claim Claim) error {
	p.claims[uid] = claim
	err := p.save()
	if err == nil {
		err = p.specify(uid, claim)
	}
	if err != nil {
		delete(p.claims, uid)
	}
	return err
}

// Remove forgets a claim. It is no error if there is none.
func (p *Prepared) Remove(uid types.UID) error {
	claim, known := p.claims[uid]
	if !known {
		return nil
	}
	if err := os.Remove(p.spec(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(p.claims, uid)
	if err := p.save(); err != nil {
		p.claims[uid] = claim
		return err
	}
	return nil
}

// cdiName is the name by which a container runtime finds a device of a claim.
func cdiName(uid types.UID, held Held) string {
	return fmt.Sprintf("%s=%s-%s", cdiKind, uid, held.Device)
}

func (p *Prepared) file() string { return filepath.Join(p.folder, "prepared.json") }

func (p *Prepared) spec(uid types.UID) string {
	return filepath.Join(p.cdi, specPrefix+string(uid)+".json")
}

func (p *Prepared) save() error { return replace(p.file(), p.claims) }

type edits struct {
	Env []string `json:"env"`
}

type cdiDevice struct {
	Name  string `json:"name"`
	Edits edits  `json:"containerEdits"`
}

// specify writes the CDI specification of a claim: what a container is told of each device is its UUID, under a name that
// no other device of the node has, so that a container with several claims is told of all.
func (p *Prepared) specify(uid types.UID, claim Claim) error {
	devices := []cdiDevice{}
	for _, held := range claim.Devices {
		_, name, _ := strings.Cut(cdiName(uid, held), "=")
		devices = append(devices, cdiDevice{Name: name, Edits: edits{Env: []string{fmt.Sprintf("GPU_DEVICE_%d=%s", held.Minor, held.UUID)}}})
	}
	return replace(p.spec(uid), map[string]any{"cdiVersion": cdiVersion, "kind": cdiKind, "devices": devices})
}

// replace writes a file so that a reader, or a driver that starts after a crash, never sees half of it.
func replace(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	// Without the ending by which container runtimes know a specification.
	fresh := path + ".fresh"
	if err := os.WriteFile(fresh, text, 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
