//! Questions about consumer groups: what is stored, who is there; and setting what is stored.

use std::os::raw::c_int;
use std::ptr;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaErrorCode;
use tidegate::record::{Offset, PartitionId};

use super::admin::{ask, c_string, failure, look};
use super::{Failure, check, text};

/// What is answered for an offset that an open transaction is about to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pending {
    /// The one before it.
    Before,
    /// An error, which passes with the transaction.
    Refused,
}

/// Every offset a group has stored.
pub(crate) fn group_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    pending: Pending,
    timeout: Duration,
) -> Result<Vec<(PartitionId, Offset)>, Failure> {
    let group = c_string(group)?;
    let stable = c_int::from(pending == Pending::Refused);
    let answer = ask(
        client,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS,
        timeout,
        // SAFETY: the options are live.
        |options| unsafe {
            check(sys::rd_kafka_AdminOptions_set_require_stable_offsets(options, stable))
        },
        // SAFETY: the name lives through the call, which copies it; no list of partitions means
        // all; the request is released once.
        |options, queue| unsafe {
            let mut request =
                sys::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), ptr::null());
            sys::rd_kafka_ListConsumerGroupOffsets(
                client.native_ptr(),
                &mut request,
                1,
                options,
                queue,
            );
            sys::rd_kafka_ListConsumerGroupOffsets_destroy(request);
        },
    )?;
    let mut offsets = Vec::new();
    // SAFETY: as above; lists hold `cnt` entries and live as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(answer.as_ptr());
        let mut count = 0;
        if result.is_null() {
            return Ok(offsets);
        }
        let groups = sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
        partitions(groups, count, |entry| {
            if let Some(offset) = Offset::try_new(entry.offset) {
                let topic = text(entry.topic);
                offsets.push((PartitionId::new(topic.as_str(), entry.partition), offset));
            }
        })?;
    }
    offsets.sort();
    Ok(offsets)
}

/// A member's id and the partitions it was given.
pub(crate) type Member = (String, Vec<PartitionId>);

/// The members of a group, under either group protocol; one that does not exist has none.
pub(crate) fn group_members<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Vec<Member>, Failure> {
    let group = c_string(group)?;
    let mut names = [group.as_ptr()];
    let answer = ask(
        client,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
        timeout,
        |_| Ok(()),
        // SAFETY: the name lives through the call, which copies it.
        |options, queue| unsafe {
            sys::rd_kafka_DescribeConsumerGroups(
                client.native_ptr(),
                names.as_mut_ptr(),
                1,
                options,
                queue,
            );
        },
    )?;
    // SAFETY: as above.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConsumerGroups_result(answer.as_ptr());
        let mut count = 0;
        if result.is_null() {
            return Ok(Vec::new());
        }
        let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if count == 0 {
            return Ok(Vec::new());
        }
        let group = *groups;
        match look(sys::rd_kafka_ConsumerGroupDescription_error(group)) {
            Err(failure) if failure.code == RDKafkaErrorCode::GroupIdNotFound => Ok(Vec::new()),
            Err(failure) => Err(failure),
            Ok(()) => {
                let members = 0..sys::rd_kafka_ConsumerGroupDescription_member_count(group);
                let members = members.map(|index| {
                    member(sys::rd_kafka_ConsumerGroupDescription_member(group, index))
                });
                Ok(members.collect())
            }
        }
    }
}

/// # Safety
/// The pointer must point to a live description.
unsafe fn member(description: *const sys::rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: the description is live by the caller's promise; its id, its assignment and the list
    // in it are its own. A member that was given nothing may have no list.
    unsafe {
        let id = text(sys::rd_kafka_MemberDescription_consumer_id(description));
        let assignment = sys::rd_kafka_MemberDescription_assignment(description);
        if assignment.is_null() {
            return (id, Vec::new());
        }
        let list = sys::rd_kafka_MemberAssignment_partitions(assignment);
        if list.is_null() {
            return (id, Vec::new());
        }
        let entries = 0..usize::try_from((*list).cnt).unwrap_or(0);
        let partitions = entries.map(|index| {
            let entry = (*list).elems.add(index);
            PartitionId::new(text((*entry).topic).as_str(), (*entry).partition)
        });
        (id, partitions.collect())
    }
}

/// Sets offsets of a group without members; the broker refuses it for one with members.
pub(crate) fn set_group_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    offsets: &TopicPartitionList,
    timeout: Duration,
) -> Result<(), Failure> {
    let group = c_string(group)?;
    let answer = ask(
        client,
        sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS,
        timeout,
        |_| Ok(()),
        // SAFETY: name and list live through the call, which copies them; the request is released
        // once.
        |options, queue| unsafe {
            let mut request =
                sys::rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), offsets.ptr());
            sys::rd_kafka_AlterConsumerGroupOffsets(
                client.native_ptr(),
                &mut request,
                1,
                options,
                queue,
            );
            sys::rd_kafka_AlterConsumerGroupOffsets_destroy(request);
        },
    )?;
    // SAFETY: as above.
    unsafe {
        let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(answer.as_ptr());
        let mut count = 0;
        if result.is_null() {
            return Ok(());
        }
        let groups = sys::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &mut count);
        partitions(groups, count, |_| {})
    }
}

/// The partitions in the results of a request about groups, or the first error among them.
///
/// # Safety
/// `groups` must point to `count` live results.
unsafe fn partitions(
    groups: *mut *const sys::rd_kafka_group_result_t,
    count: usize,
    mut each: impl FnMut(&sys::rd_kafka_topic_partition_t),
) -> Result<(), Failure> {
    for index in 0..count {
        // SAFETY: the results are live by the caller's promise; each has a list of `cnt` entries.
        let list = unsafe {
            let group = *groups.add(index);
            look(sys::rd_kafka_group_result_error(group))?;
            &*sys::rd_kafka_group_result_partitions(group)
        };
        for index in 0..usize::try_from(list.cnt).unwrap_or(0) {
            // SAFETY: as above.
            let entry = unsafe { &*list.elems.add(index) };
            let code: RDKafkaErrorCode = entry.err.into();
            if code != RDKafkaErrorCode::NoError {
                // SAFETY: the name belongs to the entry.
                let topic = unsafe { text(entry.topic) };
                return Err(failure(code, format!("{topic}/{}: {code}", entry.partition)));
            }
            each(entry);
        }
    }
    Ok(())
}
