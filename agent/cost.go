package agent

import (
	"time"

	"github.com/bastion-ssm/bastion/bastions"
)

// Size is how big a bastion is and what that costs. What ECS has not said is left out.
type Size struct {
	CPU          int            `json:"cpu,omitempty"`        // 1024 is a vCPU
	Memory       int            `json:"memory_mib,omitempty"` //
	Architecture string         `json:"architecture,omitempty"`
	Cost         *bastions.Cost `json:"cost_estimate_usd,omitempty"` // by Status only
}

func sizeOf(b bastions.Bastion) Size {
	return Size{CPU: b.CPU, Memory: b.Memory, Architecture: b.Architecture}
}

// price estimates what b costs.
func (s *Size) price(b bastions.Bastion, settings Settings) {
	price := bastions.Price{VCPUHour: settings.PriceVCPUHour, GBHour: settings.PriceGBHour}
	if c, known := b.Cost(price, time.Now()); known {
		s.Cost = &c
	}
}
