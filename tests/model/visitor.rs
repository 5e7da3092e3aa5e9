//! A program that knows the public socket and nothing else: it connects, and waits for an answer.

use crate::kernel::{Line, Name};
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Visitor {
    None,
    /// Connects whenever somebody may be there.
    Outside,
    Resolved(usize),
    Waiting,
    Answered,
}

impl Visitor {
    pub(crate) fn new(is_there: bool) -> Self {
        if is_there { Self::Outside } else { Self::None }
    }

    pub(crate) fn is_under_way(self) -> bool {
        matches!(self, Self::Resolved(_) | Self::Waiting)
    }
}

pub(crate) fn can_go_on(world: &World) -> bool {
    match world.visitor {
        Visitor::Outside => world.kernel.public_name.is_some(),
        Visitor::Resolved(_) => true,
        Visitor::Waiting => world.line(world.visitor_index()) == Line::Ended,
        Visitor::None | Visitor::Answered => false,
    }
}

pub(crate) fn go_on(world: &mut World) {
    let index = world.visitor_index();
    world.visitor = match world.visitor {
        Visitor::Outside => match world.kernel.resolve(index, Name::Public) {
            Some(inode) => Visitor::Resolved(inode),
            None => Visitor::Outside,
        },
        Visitor::Resolved(inode) if world.kernel.connect(index, inode) => Visitor::Waiting,
        // Refused: nothing is lost, it knows that nobody is there.
        Visitor::Resolved(_) => Visitor::Outside,
        // Killed daemons lose what they have; that is told apart where it happens.
        Visitor::Waiting => {
            world.kernel.hang_up(index);
            Visitor::Outside
        }
        other => other,
    };
}
