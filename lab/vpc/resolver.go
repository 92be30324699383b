package vpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// answerTTL is the time to live of the resolver's answers in seconds, the same as RDS gives its endpoints.
const answerTTL = 5

// Resolver is a DNS server for the VPC's private names. It answers A and AAAA queries for the names that Set gave it, and
// NXDOMAIN for all others. It forwards nothing.
type Resolver struct {
	udp, tcp *dns.Server
	addr     netip.AddrPort
	serving  sync.WaitGroup

	mu    sync.RWMutex
	names map[string][]netip.Addr // by canonical name
}

// StartResolver listens on a loopback address ("127.0.0.1:0" takes a free port), the same port for UDP and TCP. ctx bounds
// the start only.
func StartResolver(ctx context.Context, listen string) (*Resolver, error) {
	if err := CheckLoopback(listen); err != nil {
		return nil, fmt.Errorf("start the resolver: %w", err)
	}
	pc, l, err := listenBoth(ctx, listen)
	if err != nil {
		return nil, fmt.Errorf("start the resolver: %w", err)
	}
	addr, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the resolver: %w", err), pc.Close(), l.Close())
	}

	r := &Resolver{addr: addr, names: map[string][]netip.Addr{}}
	up := make(chan struct{}, 2)
	notify := func() { up <- struct{}{} }
	r.udp = &dns.Server{PacketConn: pc, Handler: r, NotifyStartedFunc: notify}
	r.tcp = &dns.Server{Listener: l, Handler: r, NotifyStartedFunc: notify}
	for _, s := range []*dns.Server{r.udp, r.tcp} {
		r.serving.Go(func() { _ = s.ActivateAndServe() }) // returns when Close shuts it down
	}
	// Both call notify at once, and Shutdown works only after that.
	<-up
	<-up
	return r, nil
}

// listenBoth opens a UDP and a TCP socket on the same port.
func listenBoth(ctx context.Context, listen string) (net.PacketConn, net.Listener, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, nil, err
	}
	tries := 1
	if port == "0" {
		tries = 10 // the port that UDP got may be taken for TCP
	}
	var lc net.ListenConfig
	for {
		pc, err := lc.ListenPacket(ctx, "udp", net.JoinHostPort(host, port))
		if err != nil {
			return nil, nil, err
		}
		l, err := lc.Listen(ctx, "tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l, nil
		}
		err = errors.Join(err, pc.Close())
		if tries--; tries == 0 {
			return nil, nil, err
		}
	}
}

// Addr returns the address that the resolver listens on, for UDP and TCP.
func (r *Resolver) Addr() netip.AddrPort { return r.addr }

// Set gives name its addresses, in the order of the answers; without addresses it removes the name. Case and a trailing dot
// do not matter. Any address is allowed: the resolver only names it.
func (r *Resolver) Set(name string, addrs ...netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name = dns.CanonicalName(name)
	if len(addrs) == 0 {
		delete(r.names, name)
		return
	}
	unmapped := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		unmapped[i] = a.Unmap()
	}
	r.names[name] = unmapped
}

// Close stops the resolver and waits until it has stopped.
func (r *Resolver) Close() error {
	err := errors.Join(r.udp.Shutdown(), r.tcp.Shutdown())
	r.serving.Wait()
	return err
}

// ServeDNS answers one query.
func (r *Resolver) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg)
	switch {
	case req.Opcode != dns.OpcodeQuery:
		m.SetRcode(req, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		m.SetRcode(req, dns.RcodeFormatError)
	default:
		m.SetReply(req)
		m.Authoritative = true
		m.RecursionAvailable = true // as the VPC's resolver says; stub resolvers ask for it
		r.answer(m, req.Question[0])
	}
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		m.SetEdns0(1232, false)
		size = max(size, int(opt.UDPSize()))
	}
	if _, isUDP := w.RemoteAddr().(*net.UDPAddr); isUDP {
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // an asker that has gone needs no answer
}

// answer fills in the records for q, or the reason why there are none.
func (r *Resolver) answer(m *dns.Msg, q dns.Question) {
	r.mu.RLock()
	addrs, known := r.names[dns.CanonicalName(q.Name)]
	r.mu.RUnlock()

	if !known {
		m.Rcode = dns.RcodeNameError
	}
	if q.Qclass == dns.ClassINET {
		for _, a := range addrs {
			hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
			switch {
			case q.Qtype == dns.TypeA && a.Is4():
				m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
			case q.Qtype == dns.TypeAAAA && a.Is6():
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
			}
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{startOfAuthority(q.Name)}
	}
}

// startOfAuthority is the record that goes with an answer of nothing, so that askers know how long they may remember it.
func startOfAuthority(name string) dns.RR {
	zone := dns.CanonicalName(name)
	if i := strings.IndexByte(zone, '.'); i >= 0 && i+1 < len(zone) {
		zone = zone[i+1:]
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: answerTTL},
		Ns:  "ns.lab.invalid.", Mbox: "lab.lab.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: answerTTL,
	}
}
