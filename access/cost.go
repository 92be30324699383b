package access

import (
	"time"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/report"
)

func sizeOf(b bastions.Bastion) report.Size {
	return report.Size{CPU: b.Size.CPU, Memory: b.Size.Memory, Architecture: b.Architecture}
}

// price estimates what b has cost so far, with the settings' prices, and sets s.Cost if its size is known.
func price(s *report.Size, b bastions.Bastion, settings Settings) {
	price := fargate.Price{VCPUHour: settings.Local.PriceVCPUHour, GBHour: settings.Local.PriceGBHour}
	if c, known := b.Cost(price, time.Now()); known {
		s.Cost = &c
	}
}
