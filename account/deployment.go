package account

import (
	"fmt"
	"strings"
)

// Deployment has the facts by which references become text.
type Deployment struct {
	Partition, Region, Account, URLSuffix string
	Values                                map[any]string // of a Ref or an Attr
}

// literal is a reference's text in the deployment. A reference without a value is a fault of the caller's, and panics.
func (d Deployment) literal(v any) any {
	switch v := v.(type) {
	case Pseudo:
		return map[Pseudo]string{Partition: d.Partition, Region: d.Region, Account: d.Account, URLSuffix: d.URLSuffix}[v]
	case Ref, Attr:
		if text, ok := d.Values[v]; ok {
			return text
		}
	case Text:
		var b strings.Builder
		for _, part := range v.flat() {
			if text, ok := part.(string); ok {
				b.WriteString(text)
			} else {
				fmt.Fprint(&b, d.literal(part))
			}
		}
		return b.String()
	}
	panic(fmt.Sprintf("account: the deployment has no value for %#v", v))
}
