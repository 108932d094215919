package command

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// namer gives a message's field its name in JSON; "" leaves the field out. It
// sees the message that holds the field, since an amount's unit may depend on
// the currency beside it.
type namer func(parent protoreflect.Message, field protoreflect.FieldDescriptor) string

// message is a message of the API as JSON. Every field is there, whatever its
// value, in the order of the API's definition and under its own snake_case name
// unless name says otherwise. Integers are JSON numbers, also 64-bit ones; an
// enum is its value's name without the type's prefix, null where unspecified;
// an absent message is null; bytes are lower-case hex.
type message struct {
	m    proto.Message
	name namer
}

// MarshalJSON implements json.Marshaler.
func (m message) MarshalJSON() ([]byte, error) {
	return appendMessage(nil, m.m.ProtoReflect(), m.name)
}

func appendMessage(b []byte, m protoreflect.Message, name namer) ([]byte, error) {
	b = append(b, '{')
	first := true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		key := name(m, field)
		if key == "" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(strconv.AppendQuote(b, key), ':')
		var err error
		if b, err = appendField(b, m, field, name); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendField(b []byte, m protoreflect.Message, field protoreflect.FieldDescriptor, name namer) ([]byte, error) {
	switch {
	case field.IsMap():
		return nil, fmt.Errorf("encode field %s: maps have no stable order", field.FullName())
	case field.IsList():
		list := m.Get(field).List()
		b = append(b, '[')
		for i := range list.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendValue(b, list.Get(i), field, name); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case field.HasPresence() && !m.Has(field):
		return append(b, "null"...), nil
	}
	return appendValue(b, m.Get(field), field, name)
}

func appendValue(b []byte, v protoreflect.Value, field protoreflect.FieldDescriptor, name namer) ([]byte, error) {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		return appendString(b, hex.EncodeToString(v.Bytes()))
	case protoreflect.EnumKind:
		return appendEnum(b, v.Enum(), field.Enum())
	case protoreflect.MessageKind:
		return appendMessage(b, v.Message(), name)
	}
	return nil, fmt.Errorf("encode field %s: kind %s has no form here", field.FullName(), field.Kind())
}

func appendString(b []byte, s string) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("encode text: %w", err)
	}
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...), nil
}

func appendEnum(b []byte, n protoreflect.EnumNumber, enum protoreflect.EnumDescriptor) ([]byte, error) {
	if n == 0 {
		return append(b, "null"...), nil
	}
	value := enum.Values().ByNumber(n)
	if value == nil { // from a newer server
		return strconv.AppendInt(b, int64(n), 10), nil
	}
	prefix := strings.ToUpper(string(enum.Name())) + "_"
	return appendString(b, strings.TrimPrefix(string(value.Name()), prefix))
}
