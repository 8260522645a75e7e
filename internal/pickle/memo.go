package pickle

import (
	"errors"
	"fmt"
	"strconv"
)

func (m *Machine) put(size int) error {
	n, err := m.number(size)
	if err != nil {
		return err
	}
	return m.remember(int64(n))
}

func (m *Machine) putLine() error {
	n, err := m.indexLine()
	if err != nil {
		return err
	}
	return m.remember(n)
}

// remember keeps the last value under a number, without taking it from the stack.
func (m *Machine) remember(n int64) error {
	if len(m.stack) <= m.floor() {
		return errStack
	}
	v := m.stack[len(m.stack)-1]
	switch known := int64(len(m.memo)); {
	case n < known:
		m.memo[n] = v
	case n == known:
		m.memo = append(m.memo, v)
		return m.Charge(24)
	default:
		m.far[n] = v
		return m.Charge(56)
	}
	return nil
}

func (m *Machine) get(size int) error {
	n, err := m.number(size)
	if err != nil {
		return err
	}
	return m.recall(int64(n))
}

func (m *Machine) getLine() error {
	n, err := m.indexLine()
	if err != nil {
		return err
	}
	return m.recall(n)
}

func (m *Machine) recall(n int64) error {
	if n < int64(len(m.memo)) {
		return m.push(m.memo[n], 0)
	}
	v, ok := m.far[n]
	if !ok {
		return fmt.Errorf("is damaged: it recalls value %d, which it did not keep", n)
	}
	return m.push(v, 0)
}

func (m *Machine) indexLine() (int64, error) {
	s, err := m.line()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("has %.40q where the number of a kept value should be", s)
	}
	return int64(n), nil
}

func (m *Machine) globalLines() error {
	module, err := m.line()
	if err != nil {
		return err
	}
	name, err := m.line()
	if err != nil {
		return err
	}
	return m.global(module, name)
}

func (m *Machine) stackGlobal() error {
	v, err := m.popN(2)
	if err != nil {
		return err
	}
	module, ok1 := v[0].(string)
	name, ok2 := v[1].(string)
	if !ok1 || !ok2 {
		return errors.New("names a class by something that is no text")
	}
	return m.global(module, name)
}

// global pushes what the table has under a name.
func (m *Machine) global(module, name string) error {
	v, ok := m.Globals[[2]string{module, name}]
	if !ok {
		return refuse(module, name)
	}
	return m.push(v, 0)
}

// refuse is the error for a name that is not in the table.
func refuse(module, name string) error {
	return fmt.Errorf("asks for %q, which is none of the names that tensors and plain values need; it is refused, and nothing was run",
		fmt.Sprintf("%.100s.%.100s", module, name))
}

// reduce calls one of the table's functions on a tuple of arguments.
func (m *Machine) reduce() error {
	v, err := m.popN(2)
	if err != nil {
		return err
	}
	g, ok := v[0].(Global)
	if !ok || g.Call == nil {
		return fmt.Errorf("calls %s, which is no function", Describe(v[0]))
	}
	args, ok := v[1].(Tuple)
	if !ok {
		return fmt.Errorf("calls %s with %s in place of a tuple", g.Name, Describe(v[1]))
	}
	out, err := g.Call(m, args)
	if err != nil {
		return fmt.Errorf("%s: %w", g.Name, err)
	}
	return m.push(out, 16)
}

// build gives the last value but one a state, where that is harmless.
func (m *Machine) build() error {
	v, err := m.popN(2)
	if err != nil {
		return err
	}
	state := v[1]
	switch v := v[0].(type) {
	case *Dict:
		if !v.ordered {
			return errors.New("gives attributes to a dictionary that can have none")
		}
		return m.push(v, 0) // the attributes are dropped: PyTorch keeps versions of modules there
	case Builder:
		if err := v.Build(state); err != nil {
			return err
		}
		return m.push(v, 0)
	}
	return fmt.Errorf("gives a state to %s, which is refused", Describe(v[0]))
}

func (m *Machine) persistentID() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	id, ok := v.(Tuple)
	if !ok {
		return fmt.Errorf("has a persistent id that is %s in place of a tuple", Describe(v))
	}
	if m.Persistent == nil {
		return errors.New("names a value outside it, which is refused here")
	}
	s, err := m.Persistent(id)
	if err != nil {
		return err
	}
	return m.push(s, 64)
}
