package conf

import (
	"net"
	"net/netip"

	"nekoq/services/auth"
	"nekoq/warehouse/conf/api"
)

// Resource is what an authorizer is asked about for an item, or for all of an area
// or group when the rest is empty.
func Resource(area, group, key string) auth.Resource {
	r := auth.Resource{Service: "warehouse", Kind: "config"}
	switch {
	case key != "":
		r.Name = area + "/" + group + "/" + key
	case group != "":
		r.Name, r.End = area+"/"+group+"/", area+"/"+group+"0" // 0 follows /
	case area != "":
		r.Name, r.End = area+"/", area+"0"
	}
	return r
}

// ReadAction is what reading an item's contents demands: a hidden one is for those
// who manage it.
func ReadAction(key string) auth.Action {
	if api.Hidden(key) {
		return auth.Admin
	}
	return auth.Read
}

// Demand is one thing that a request needs to be allowed.
type Demand struct {
	Action   auth.Action
	Resource auth.Resource
}

// maxDemands bounds the references of one content that are asked about one by one.
const maxDemands = 200

// ReferenceDemands gives what a content needs: whoever writes a reference must be
// allowed to read what it stands for, since it is given to all who read the item.
func ReferenceDemands(a api.Address, b []byte) (out []Demand) {
	seen := map[auth.Resource]bool{}
	for from := 0; ; {
		ref, ok := api.NextReference(b, from)
		if !ok {
			return out
		}
		from = ref.End
		area := ref.Area
		if area == "" {
			area = a.Area
		}
		d := Demand{auth.Read, Resource(area, ref.Group, ref.Key)}
		if ref.Escaped || seen[d.Resource] {
			continue
		}
		if len(out) == maxDemands { // the rest at once
			return append(out, Demand{auth.Read, Resource("", "", "")})
		}
		seen[d.Resource] = true
		out = append(out, d)
	}
}

// PeerOf gives where a request comes from, as gray rules and the list of listeners
// see it.
func PeerOf(p auth.Principal) Peer {
	host, _, err := net.SplitHostPort(p.Addr)
	if err != nil {
		host = p.Addr
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return Peer{Addr: ip.Unmap().String(), Door: p.Door}
	}
	return Peer{Door: p.Door}
}
