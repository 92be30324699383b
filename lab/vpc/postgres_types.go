package vpc

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	wire "github.com/jeroenrinzema/psql-wire"
	"github.com/jeroenrinzema/psql-wire/codes"
	pgerror "github.com/jeroenrinzema/psql-wire/errors"
)

var callName = regexp.MustCompile(`^(?i)(?:cast\()?([a-z_][a-z0-9_]*)\(.*\)$`)

// columnName gives an unnamed column the name that PostgreSQL would: that of the function.
func columnName(name string) string {
	if m := callName.FindStringSubmatch(name); m != nil {
		return strings.ToLower(m[1])
	}
	return name
}

var typeScale = regexp.MustCompile(`\(\s*\d+\s*,\s*(\d+)\s*\)`)

// columnType returns the type of a column from its declaration or, for an expression, from a value. scale is the number of decimals
// of a numeric(p,s), or -1.
func columnType(declared string, sample any) (oid uint32, scale int32) {
	scale = -1
	if m := typeScale.FindStringSubmatch(declared); m != nil {
		if n, err := strconv.ParseInt(m[1], 10, 16); err == nil {
			scale = int32(n)
		}
	}
	if oid := oidByType(declared); oid != 0 {
		return oid, scale
	}
	switch sample.(type) {
	case int64:
		return pgtype.Int8OID, scale
	case float64:
		return pgtype.Float8OID, scale
	case bool:
		return pgtype.BoolOID, scale
	case []byte:
		return pgtype.ByteaOID, scale
	case time.Time:
		return pgtype.TimestamptzOID, scale
	}
	return pgtype.TextOID, scale
}

// oidByType returns the type for a type's name as PostgreSQL or SQLite write it, 0 for none.
func oidByType(name string) uint32 {
	name = strings.ToUpper(name)
	for _, t := range []struct {
		part string
		oid  uint32
	}{
		{"TIMESTAMP", pgtype.TimestamptzOID},
		{"DATE", pgtype.DateOID},
		{"INT", pgtype.Int8OID},
		{"SERIAL", pgtype.Int8OID},
		{"BOOL", pgtype.BoolOID},
		{"NUMERIC", pgtype.NumericOID},
		{"DECIMAL", pgtype.NumericOID},
		{"DOUBLE", pgtype.Float8OID},
		{"REAL", pgtype.Float8OID},
		{"FLOAT", pgtype.Float8OID},
		{"BYTEA", pgtype.ByteaOID},
		{"BLOB", pgtype.ByteaOID},
		{"CHAR", pgtype.TextOID},
		{"TEXT", pgtype.TextOID},
		{"JSON", pgtype.TextOID},
		{"UUID", pgtype.TextOID},
	} {
		if strings.Contains(name, t.part) {
			return t.oid
		}
	}
	return 0
}

// standIn returns a value for describing a statement: of the parameter's type, or untyped.
func standIn(oid uint32, untyped any) any {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.BoolOID:
		return int64(1)
	case pgtype.Float4OID, pgtype.Float8OID:
		return 1.5
	case pgtype.TextOID, pgtype.VarcharOID:
		return "x"
	}
	return untyped
}

// decodeParams returns the client's parameters as values for SQLite. Text of no known type stays text: SQLite compares it
// as a number where the column is one.
func decodeParams(params []wire.Parameter, oids []uint32) ([]any, error) {
	args := make([]any, len(params))
	for i, p := range params {
		raw := p.Value()
		if raw == nil {
			continue
		}
		var oid uint32
		if i < len(oids) {
			oid = oids[i]
		}
		if oid == 0 {
			args[i] = string(raw)
			continue
		}
		v, err := p.Scan(oid)
		if err != nil {
			return nil, pgerror.WithCode(fmt.Errorf("parameter $%d: %w", i+1, err), codes.InvalidTextRepresentation)
		}
		switch v := v.(type) {
		case time.Time:
			args[i] = v.UTC().Format("2006-01-02 15:04:05.999999+00")
		case pgtype.Numeric:
			f, err := v.Float64Value()
			if err != nil {
				return nil, pgerror.WithCode(fmt.Errorf("parameter $%d: %w", i+1, err), codes.InvalidTextRepresentation)
			}
			args[i] = f.Float64
		default:
			args[i] = v
		}
	}
	return args, nil
}

// convert makes a value of SQLite's, where every value has its own type, one of the column's type.
func convert(v any, c wire.Column) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch c.Oid {
	case pgtype.TextOID:
		switch v := v.(type) {
		case []byte:
			return string(v), nil
		case time.Time:
			return v.Format("2006-01-02 15:04:05.999999-07"), nil
		}
		return fmt.Sprint(v), nil
	case pgtype.BoolOID:
		switch v := v.(type) {
		case bool:
			return v, nil
		case int64:
			return v != 0, nil
		}
	case pgtype.Int8OID:
		switch v := v.(type) {
		case int64:
			return v, nil
		case bool:
			if v {
				return int64(1), nil
			}
			return int64(0), nil
		}
	case pgtype.Float8OID:
		switch v := v.(type) {
		case float64:
			return v, nil
		case int64:
			return float64(v), nil
		}
	case pgtype.NumericOID:
		return toNumeric(v, c.TypeModifier)
	case pgtype.ByteaOID:
		switch v := v.(type) {
		case []byte:
			return v, nil
		case string:
			return []byte(v), nil
		}
	case pgtype.TimestamptzOID, pgtype.DateOID:
		return toTime(v)
	}
	return nil, fmt.Errorf("SQLite holds the %T %v there", v, v)
}

func toNumeric(v any, scale int32) (any, error) {
	var text string
	switch v := v.(type) {
	case int64:
		text = strconv.FormatInt(v, 10)
		if scale > 0 {
			text += "." + strings.Repeat("0", int(scale))
		}
	case float64:
		text = strconv.FormatFloat(v, 'f', int(scale), 64) // -1 is as many digits as needed
	default:
		text = fmt.Sprint(v)
	}
	var n pgtype.Numeric
	if err := n.Scan(text); err != nil {
		return nil, err
	}
	return n, nil
}

func toTime(v any) (any, error) {
	switch v := v.(type) {
	case time.Time:
		return v, nil
	case string:
		for _, layout := range []string{
			"2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00", time.RFC3339Nano,
			"2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999", "2006-01-02",
		} {
			if t, err := time.Parse(layout, v); err == nil {
				return t, nil
			}
		}
	}
	return nil, fmt.Errorf("SQLite holds %v there, which is no time", v)
}
