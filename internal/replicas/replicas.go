// Package replicas holds networks with the same weights that compute parts of a batch at the same time.
package replicas

import (
	"runtime"
	"slices"
	"sync"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

// Network is a network that can be made again with the same weights and gradients of its own. The weights are its memory, or
// copies on a device.
type Network[N any] interface {
	nn.Network
	Replica(dev torch.Device, copied bool) (N, error)
}

// Set is of networks with the same weights: the one that trains, which is the first, and others with gradients of their own.
// On one device they share the memory of the weights. A network on another device has copies, which every step brings up to
// date.
type Set[N Network[N]] struct {
	// Each is how many samples a replica computes at a time, at most; 0: all of its part of the batch. New sets 1 for a
	// processor, which takes as long for one sample after the other: a step's numbers then do not depend on how samples are
	// divided over replicas and processes, but for the order of sums of more than two.
	Each int
	List []*Replica[N]

	threads int
}

// Replica is one of the networks.
type Replica[N any] struct {
	Net    N
	Device torch.Device
	Params []*torch.Tensor // that train
	copied bool            // the weights are copies
	jobs   chan func()     // nil of the first, which computes in its caller's goroutine
}

// New makes n replicas of a network, itself included, which take the devices in turn; the first is the
// network's. A device that is listed twice has the weights twice. Operations of each replica use so many threads on the
// CPU, of a single one as many as elsewhere. The network outlives them.
func New[N Network[N]](net N, devices []torch.Device, n, threads int) (*Set[N], error) {
	r := &Set[N]{List: []*Replica[N]{{Net: net, Device: devices[0], Params: net.Parameters().Trainable()}}}
	if n > 1 {
		r.threads = threads
	}
	if devices[0] == torch.CPU {
		r.Each = 1
	}
	for i := 1; i < n; i++ {
		of, copied := r.List[i%len(devices)%i], i < len(devices)
		p := &Replica[N]{Device: devices[i%len(devices)], copied: copied, jobs: make(chan func())}
		var err error
		if p.Net, err = of.Net.Replica(p.Device, copied); err != nil {
			r.Free()
			return nil, err
		}
		p.Params = p.Net.Parameters().Trainable()
		go p.work()
		r.List = append(r.List, p)
	}
	return r, nil
}

// work keeps one OS thread, as OpenMP has a pool of threads for each.
func (p *Replica[N]) work() {
	runtime.LockOSThread()
	for job := range p.jobs {
		job()
	}
}

// Free ends the replicas and releases what they do not share with the network.
func (r *Set[N]) Free() {
	for _, p := range r.List[1:] {
		close(p.jobs)
		p.Net.Free()
	}
	r.List = nil
}

// Nets are the replicas' networks.
func (r *Set[N]) Nets() (list []nn.Network) {
	for _, p := range r.List {
		list = append(list, p.Net)
	}
	return list
}

// Refresh gives the copies the weights of the network that trains.
func (r *Set[N]) Refresh() {
	for _, p := range r.List[1:] {
		if p.copied {
			for i, w := range r.List[0].Params {
				torch.Copy(p.Params[i], w)
			}
		}
	}
}

// Gather adds up the gradients in the network that trains, in the order of the replicas.
func (r *Set[N]) Gather() {
	for _, p := range r.List[1:] {
		torch.MoveGrads(r.List[0].Params, p.Params)
	}
}

// Drop frees the gradients of all but the network that trains.
func (r *Set[N]) Drop() {
	for _, p := range r.List[1:] {
		for _, w := range p.Params {
			w.ZeroGrad()
		}
	}
}

// Run calls fn with the first n replicas at the same time and waits for all, each in a scope of s's mode and in an OS
// thread. The error is that of the first replica that has one.
func (r *Set[N]) Run(s *torch.Scope, n int, fn func(s *torch.Scope, i int, p *Replica[N]) error) error {
	mode := s.Mode()
	mode.Threads = r.threads
	errs := make([]error, n)
	var running sync.WaitGroup
	for i, p := range slices.Backward(r.List[:n]) {
		job := func() { errs[i] = torch.Do(mode, func(s *torch.Scope) error { return fn(s, i, p) }) }
		if p.jobs == nil {
			job()
			continue
		}
		running.Add(1)
		p.jobs <- func() {
			defer running.Done()
			job()
		}
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
