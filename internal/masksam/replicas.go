package masksam

import (
	"runtime"
	"slices"
	"sync"

	"masksam/internal/torch"
)

// Replicas are networks with the same weights that compute parts of a batch at the same time: the one that trains, which
// is the first, and others with gradients of their own. On one device they share the memory of the weights. A network on
// another device has copies, which every step brings up to date.
type Replicas struct {
	// Forward runs a replica on images (B, C, T, H, W), in several goroutines; unless set it is Net.Forward.
	Forward func(n *Net, s *torch.Scope, x *torch.Tensor) *Output

	// Each is how many samples a replica computes at a time, at most; 0: all of its part of the batch. NewReplicas sets 1 for a
	// processor, which takes as long for one sample after the other: a step's numbers then do not depend on how samples are
	// divided over replicas and processes, but for the order of sums of more than two.
	Each int

	threads int
	list    []*replica
}

type replica struct {
	net    *Net
	device torch.Device
	params []*torch.Tensor // that train
	copied bool            // the weights are copies
	jobs   chan func()     // nil of the first, which computes in its caller's goroutine
}

// NewReplicas makes n replicas of a network, itself included, which take the devices in turn; the first is the
// network's. A device that is listed twice has the weights twice. Operations of each replica use so many threads on the
// CPU, of a single one as many as elsewhere. The network outlives them.
func NewReplicas(net *Net, devices []torch.Device, n, threads int) (*Replicas, error) {
	r := &Replicas{Forward: (*Net).Forward, list: []*replica{{net: net, device: devices[0], params: net.Params.Trainable()}}}
	if n > 1 {
		r.threads = threads
	}
	if devices[0] == torch.CPU {
		r.Each = 1
	}
	for i := 1; i < n; i++ {
		of, copied := r.list[i%len(devices)%i], i < len(devices)
		p := &replica{device: devices[i%len(devices)], copied: copied, jobs: make(chan func())}
		var err error
		if p.net, err = of.net.Replica(p.device, copied); err != nil {
			r.Free()
			return nil, err
		}
		p.params = p.net.Params.Trainable()
		go p.work()
		r.list = append(r.list, p)
	}
	return r, nil
}

// work keeps one OS thread, as OpenMP has a pool of threads for each.
func (p *replica) work() {
	runtime.LockOSThread()
	for job := range p.jobs {
		job()
	}
}

// Free ends the replicas and releases what they do not share with the network.
func (r *Replicas) Free() {
	for _, p := range r.list[1:] {
		close(p.jobs)
		p.net.Free()
	}
	r.list = nil
}

// Nets are the replicas' networks.
func (r *Replicas) Nets() (list []*Net) {
	for _, p := range r.list {
		list = append(list, p.net)
	}
	return list
}

// refresh gives the copies the weights of the network that trains.
func (r *Replicas) refresh() {
	first := r.list[0]
	for _, p := range r.list[1:] {
		p.net.Recompute = first.net.Recompute
		if p.copied {
			for i, w := range first.params {
				torch.Copy(p.params[i], w)
			}
		}
	}
}

// gather adds up the gradients in the network that trains, in the order of the replicas.
func (r *Replicas) gather() {
	for _, p := range r.list[1:] {
		torch.MoveGrads(r.list[0].params, p.params)
	}
}

// drop frees the gradients of all but the network that trains.
func (r *Replicas) drop() {
	for _, p := range r.list[1:] {
		for _, w := range p.params {
			w.ZeroGrad()
		}
	}
}

// each calls fn with the first n replicas at the same time and waits for all, each in a scope of s's mode and in an OS
// thread. The error is that of the first replica that has one.
func (r *Replicas) each(s *torch.Scope, n int, fn func(s *torch.Scope, i int, p *replica) error) error {
	mode := s.Mode()
	mode.Threads = r.threads
	errs := make([]error, n)
	var running sync.WaitGroup
	for i, p := range slices.Backward(r.list[:n]) {
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
