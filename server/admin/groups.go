package admin

import (
	"context"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Groups are what administrators do with groups; *groups.Service is one.
type Groups interface {
	All(ctx context.Context) ([]groups.Overview, error)
	Overview(ctx context.Context, id clearbox.GroupID) (groups.Overview, error)
	Delete(ctx context.Context, deed storage.AuditEntry, id clearbox.GroupID) error
}

// Groups lists the groups that are kept here, oldest first: numbers and servers,
// nobody's name and no title.
func (s *Service) Groups(ctx context.Context, a Actor) (wire.AdminGroups, error) {
	list := wire.AdminGroups{Groups: []wire.AdminGroup{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil || s.o.Groups == nil {
		return list, err
	}
	all, err := s.o.Groups.All(ctx)
	if err != nil {
		return list, fmt.Errorf("list groups: %w", err)
	}
	for i := range all {
		list.Groups = append(list.Groups, s.group(&all[i]))
	}
	return list, nil
}

// Group is one of them.
func (s *Service) Group(ctx context.Context, a Actor, id clearbox.GroupID) (wire.AdminGroup, error) {
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return wire.AdminGroup{}, err
	}
	if s.o.Groups == nil {
		return wire.AdminGroup{}, errNoGroup()
	}
	o, err := s.o.Groups.Overview(ctx, id)
	if clearbox.CodeOf(err) == clearbox.CodeNotFound {
		return wire.AdminGroup{}, errNoGroup()
	}
	return s.group(&o), err
}

// DeleteGroup deletes a group of which this server is the hub.
func (s *Service) DeleteGroup(ctx context.Context, a Actor, id clearbox.GroupID) error {
	if err := a.require(auth.RoleAdmin); err != nil {
		return err
	}
	if s.o.Groups == nil {
		return errNoGroup()
	}
	err := s.o.Groups.Delete(ctx, a.deed("group.delete", ""), id)
	if clearbox.CodeOf(err) == clearbox.CodeNotFound {
		return errNoGroup()
	}
	return err
}

func errNoGroup() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no such group here: clearbox group list shows them")
}

func (s *Service) group(o *groups.Overview) wire.AdminGroup {
	g := wire.AdminGroup{
		Group: o.ID, Hub: o.Hub, Own: o.Hub == s.server, State: string(o.State), Reason: o.Reason, Epoch: o.Epoch,
		Members: o.Members, Invited: o.Invited, Servers: o.Servers, Created: o.Created, Changed: o.Changed,
	}
	if g.Servers == nil {
		g.Servers = []clearbox.ServerName{}
	}
	return g
}
