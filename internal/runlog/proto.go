package runlog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// message is a protocol buffer under construction: the fields that were appended.
type message []byte

func (m message) key(field, wire int) message {
	return binary.AppendUvarint(m, uint64(field)<<3|uint64(wire))
}

func (m message) int(field int, v int) message {
	return binary.AppendUvarint(m.key(field, 0), uint64(v))
}

func (m message) double(field int, v float64) message {
	return binary.LittleEndian.AppendUint64(m.key(field, 1), math.Float64bits(v))
}

func (m message) bytes(field int, v []byte) message {
	return append(binary.AppendUvarint(m.key(field, 2), uint64(len(v))), v...)
}

func (m message) string(field int, v string) message { return m.bytes(field, []byte(v)) }

func (m message) float(field int, v float32) message {
	return binary.LittleEndian.AppendUint32(m.key(field, 5), math.Float32bits(v))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is the checksum of TensorFlow's record files.
func masked(b []byte) uint32 {
	crc := crc32.Checksum(b, castagnoli)
	return (crc>>15 | crc<<17) + 0xa282ead8
}

// record frames data as one record of such a file: length, its checksum, data, their checksum.
func record(data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, len(data)+16), uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, masked(b))
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, masked(data))
}
