package agent

import (
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/bastions"
)

// Size is how big a bastion is and what that costs. What ECS has not said is left out.
type Size struct {
	CPU          int            `json:"cpu,omitempty"`        // 1024 is a vCPU
	Memory       int            `json:"memory_mib,omitempty"` //
	Architecture string         `json:"architecture,omitempty"`
	Cost         *bastions.Cost `json:"cost_estimate_usd,omitempty"` // by Up and Status
}

func sizeOf(b bastions.Bastion) Size {
	return Size{CPU: b.Size.CPU, Memory: b.Size.Memory, Architecture: b.Architecture}
}

// price estimates what b costs.
func (s *Size) price(b bastions.Bastion, settings Settings) {
	price := bastions.Price{VCPUHour: settings.PriceVCPUHour, GBHour: settings.PriceGBHour}
	if c, known := b.Cost(price, time.Now()); known {
		s.Cost = &c
	}
}

// String is the size with its price, as far as they are known.
func (s Size) String() string {
	if s.CPU == 0 || s.Memory == 0 {
		return ""
	}
	text := bastions.Size{CPU: s.CPU, Memory: s.Memory}.String()
	if s.Cost != nil {
		text += fmt.Sprintf(", about $%.4f an hour", s.Cost.PerHour)
	}
	return text
}
